//! gpt-oss: its configuration, every refusal, and experts in the forms in which it is published.

use std::collections::BTreeMap;

use dsde_checkpoint::config::{Activation, Family, ModelConfig, RopeScaling};
use dsde_checkpoint::{Checkpoint, Dense, Dtype, Error};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as SafeDtype, TensorView};
use serde_json::{Value, json};

use super::fixtures::{changed, fixture, parsed};

const FORMS: [&str; 2] = ["gpt_oss", "gpt_oss_mxfp4"];
/// Of the fixtures: experts, inputs and outputs of each part.
const N_EXPERTS: usize = 6;
const WIDTH: usize = 32;

#[test]
fn the_configuration_is_what_it_was_trained_with() {
    for name in FORMS {
        let config = parsed(name, json!({})).unwrap();
        assert_eq!((config.family, config.activation), (Family::GptOss, Activation::ClampedSwiGlu));
        assert_eq!((config.head_dim, config.n_heads, config.hidden), (16, 4, 32));
        assert_eq!((config.has_qkv_bias, config.has_output_bias, config.has_sinks), (true, true, true));
        assert!(config.experts.as_ref().unwrap().has_bias && config.experts.unwrap().is_renormalised);
        let windows: Vec<_> = config.layers.iter().map(|layer| layer.window).collect();
        assert_eq!(windows, [Some(12), None]);
        assert_eq!(config.ropes[0].theta, 150_000.0);
        let RopeScaling::Yarn { factor, original_context_len, is_truncated, attention_factor, .. } =
            config.ropes[0].scaling
        else {
            panic!("{:?}", config.ropes[0].scaling);
        };
        assert_eq!((factor, original_context_len, is_truncated), (8.0, 64, false));
        assert_eq!(attention_factor, 0.1 * 8_f64.ln() + 1.0);
    }
    let windows = |changes: Value| -> Vec<Option<u32>> {
        parsed("gpt_oss", changes.clone()).unwrap().layers.iter().map(|layer| layer.window).collect()
    };
    let full_first = json!({"layer_types": ["full_attention", "sliding_attention"]});
    assert_eq!(windows(full_first), [None, Some(12)]);
    assert_eq!(windows(json!({"sliding_window": null})), [Some(128), None]);
    let without = parsed("gpt_oss", json!({"attention_bias": false})).unwrap();
    assert_eq!((without.has_qkv_bias, without.has_output_bias), (false, false));
}

#[test]
fn hostile_configurations_are_refused_by_name() {
    let check = |name: &str, changes: Value, expected: &str| {
        let error = parsed(name, changes.clone()).expect_err(&changes.to_string());
        assert_eq!(error.to_string(), expected, "{name} {changes}");
    };
    let another = "use another model, or remove the field if the weights do not need it";
    for (field, value) in
        [("swiglu_limit", json!(8.0)), ("swiglu_limit", json!("7")), ("swiglu_alpha", json!(1))]
    {
        let expected = format!(
            "another clamp or slope of the experts' gate is not supported ({field}: {value}); {another}"
        );
        check("gpt_oss", json!({field: value}), &expected);
    }
    check("gpt_oss", json!({"rope_scaling": null}), "config.json lacks rope_scaling");
    check("gpt_oss", json!({"num_local_experts": null}), "config.json lacks num_experts");
    check("gpt_oss", json!({"attention_bias": 1}), "attention_bias must be true or false, got 1");
    check(
        "gpt_oss",
        json!({"num_experts_per_tok": 7}),
        "num_experts_per_tok must be a whole number from 1 to 6, got 7",
    );
    check(
        "gpt_oss",
        json!({"sliding_window": 0}),
        "sliding_window must be a whole number from 1 to 16777216, got 0",
    );
    check(
        "gpt_oss",
        json!({"layer_types": ["sliding_attention"]}),
        "layer_types must be one type for each of 2 layers, got 1",
    );
    for method in [json!("bitsandbytes"), json!("gptq")] {
        let expected = format!(
            "a quantised checkpoint is not supported (quant_method: {method}); use the original weights in bf16, f16 or f32"
        );
        check("gpt_oss", json!({"quantization_config": {"quant_method": method}}), &expected);
    }
    check("gpt_oss", json!({"quantization_config": 4}), "quantization_config must be an object, got 4");
    for field in ["hidden_size", "intermediate_size"] {
        let expected = format!("{field} must be a multiple of 32 where experts are in MXFP4, got 48");
        check("gpt_oss_mxfp4", json!({field: 48}), &expected);
    }
    // Only this family has experts in MXFP4.
    let text = changed("mixtral", &json!({"quantization_config": {"quant_method": "mxfp4"}})).to_string();
    assert!(
        ModelConfig::parse(text.as_bytes(), None).unwrap_err().to_string().contains("a quantised checkpoint")
    );
}

/// Tensors of a folder: type, shape and bytes.
type Tensors = BTreeMap<String, (SafeDtype, Vec<usize>, Vec<u8>)>;

fn tensors(name: &str) -> Tensors {
    let bytes = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (&str, TensorView<'_>)| {
        (name.to_string(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    file.iter().map(tensor).collect()
}

fn written(name: &str, changes: &Value, tensors: &Tensors) -> Result<Checkpoint, Error> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), changed(name, changes).to_string()).unwrap();
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    Checkpoint::open(folder.path())
}

/// Elements of a stored tensor of bf16.
fn bf16s(tensors: &Tensors, name: &str) -> Vec<f32> {
    let (_, _, bytes) = &tensors[name];
    bytes.as_chunks::<2>().0.iter().map(|&le| half::bf16::from_le_bytes(le).to_f32()).collect()
}

/// Element `input` of `output` of an expert, of all experts' `n_out` outputs.
fn stored_element(tensors: &Tensors, module: &str, n_out: usize, [expert, output, input]: [usize; 3]) -> f32 {
    const VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let Some((_, _, codes)) = tensors.get(&format!("{module}_blocks")) else {
        return bf16s(tensors, module)[(expert * WIDTH + input) * n_out + output];
    };
    let (_, _, scales) = &tensors[&format!("{module}_scales")];
    // One block per output, two elements per byte, the low half first.
    let row = expert * n_out + output;
    let code = codes[row * 16 + input / 2] >> (4 * (input % 2)) & 15;
    let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
    sign * VALUES[usize::from(code & 7)] * (f32::from(scales[row]) - 127.0).exp2()
}

fn row(matrix: &Dense<'_>, output: usize) -> Vec<f32> {
    let mut row = vec![0.0; matrix.n_in];
    matrix.widen_row(output, &mut row);
    row
}

#[test]
fn experts_have_the_elements_that_are_stored() {
    for name in FORMS {
        let (checkpoint, tensors) = (Checkpoint::open(&fixture(name)).unwrap(), tensors(name));
        for layer in 0..2 {
            let experts = checkpoint.experts(layer).unwrap();
            let [gate_up, down] = ["gate_up_proj", "down_proj"]
                .map(|module| format!("model.layers.{layer}.mlp.experts.{module}"));
            for (i, expert) in experts.iter().enumerate() {
                let is_mxfp4 = expert.gate.dtype == Dtype::Mxfp4;
                assert_eq!(is_mxfp4, name == "gpt_oss_mxfp4", "experts stay as they are stored");
                for output in 0..WIDTH {
                    let of = |module: &str, n_out, at: usize| -> Vec<f32> {
                        (0..WIDTH).map(|k| stored_element(&tensors, module, n_out, [i, at, k])).collect()
                    };
                    assert_eq!(row(&expert.gate, output), of(&gate_up, 2 * WIDTH, 2 * output), "{name}");
                    assert_eq!(row(&expert.up, output), of(&gate_up, 2 * WIDTH, 2 * output + 1), "{name}");
                    assert_eq!(row(&expert.down, output), of(&down, WIDTH, output), "{name}");
                }
            }
            let bias = experts.bias.unwrap();
            let stored = bf16s(&tensors, &format!("{gate_up}_bias"));
            for (at, bias) in bias.gate_up.iter().enumerate() {
                let (expert, part, output) = (at / (2 * WIDTH), at / WIDTH % 2, at % WIDTH);
                assert_eq!(*bias, stored[expert * 2 * WIDTH + 2 * output + part]);
            }
            assert_eq!(bias.down, bf16s(&tensors, &format!("{down}_bias")));
            assert_eq!(checkpoint.router_bias(layer).unwrap().unwrap().len(), N_EXPERTS);
        }
        let types = checkpoint.dtypes();
        assert_eq!(types.iter().any(|(dtype, _)| *dtype == Dtype::Mxfp4), name == "gpt_oss_mxfp4");
    }
}

#[test]
fn broken_files_are_refused_by_name() {
    let check = |name: &str, change: &dyn Fn(&mut Tensors), expected: &str| {
        let mut tensors = tensors(name);
        change(&mut tensors);
        let loaded = written(name, &json!({}), &tensors).and_then(|checkpoint| {
            checkpoint.router_bias(1)?;
            checkpoint.vector("model.layers.1.self_attn.sinks", 4)?;
            checkpoint.experts(1).map(drop)
        });
        assert_eq!(loaded.unwrap_err().to_string(), expected, "{name}");
    };
    let layer = "model.layers.1.";
    for lost in ["mlp.router.bias", "self_attn.sinks", "mlp.experts.down_proj_bias"] {
        let (lost, expected) = (format!("{layer}{lost}"), format!("the weights lack tensor {layer}{lost}"));
        for name in FORMS {
            check(name, &|tensors| drop(tensors.remove(&lost)), &expected);
        }
    }
    for lost in ["gate_up_proj_scales", "down_proj_blocks"] {
        let lost = format!("{layer}mlp.experts.{lost}");
        check(
            "gpt_oss_mxfp4",
            &|tensors| drop(tensors.remove(&lost)),
            &format!("the weights lack tensor {lost}"),
        );
    }
    let shaped = |tensors: &mut Tensors, name: &str, shape: &[usize]| {
        tensors.get_mut(&format!("{layer}{name}")).unwrap().1 = shape.to_vec();
    };
    check(
        "gpt_oss_mxfp4",
        &|tensors| shaped(tensors, "mlp.experts.gate_up_proj_blocks", &[6, 64, 16, 1]),
        "tensor model.layers.1.mlp.experts.gate_up_proj_blocks must have shape [6, 64, 1, 16], got [6, 64, 16, 1]",
    );
    check(
        "gpt_oss",
        &|tensors| shaped(tensors, "mlp.experts.gate_up_proj", &[6, 64, 32]),
        "tensor model.layers.1.mlp.experts.gate_up_proj must have shape [6, 32, 64], got [6, 64, 32]",
    );
    check(
        "gpt_oss",
        &|tensors| shaped(tensors, "self_attn.sinks", &[2, 2]),
        "tensor model.layers.1.self_attn.sinks must have shape [4], got [2, 2]",
    );
    check(
        "gpt_oss_mxfp4",
        &|tensors| {
            tensors.get_mut(&format!("{layer}mlp.experts.down_proj_scales")).unwrap().0 = SafeDtype::I8
        },
        "tensor model.layers.1.mlp.experts.down_proj_scales must hold U8, got I8",
    );
}

/// A model of another architecture whose files have sinks is another model than it says.
#[test]
fn sinks_that_are_not_declared_are_refused() {
    let mut tensors = tensors("qwen3");
    let name = "model.layers.0.self_attn.sinks".to_string();
    tensors.insert(name.clone(), (SafeDtype::F32, vec![4], vec![0; 16]));
    let error = written("qwen3", &json!({}), &tensors).unwrap_err();
    assert!(matches!(error, Error::TensorUndeclared { name: undeclared, .. } if undeclared == name));
}
