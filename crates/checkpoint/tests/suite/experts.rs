//! Mixtures of experts: configurations, every refusal, and the forms in which experts are stored.

use std::collections::BTreeMap;

use dsde_checkpoint::config::Family;
use dsde_checkpoint::{Checkpoint, Dtype, Error};
use safetensors::tensor::{Dtype as SafeDtype, TensorView};
use serde_json::{Value, json};

use super::fixtures::{fixture, parsed};

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

fn check_refused(name: &str, changes: Value, expected: &str) {
    let error = parsed(name, changes.clone()).expect_err(&changes.to_string());
    assert_eq!(error.to_string(), expected, "{name} {changes}");
}

#[test]
fn families_have_their_experts() {
    let cases = [
        ("qwen3_moe", Family::Qwen3Moe, [8, 3, 32], true),
        ("qwen3_moe_mixed", Family::Qwen3Moe, [6, 2, 20], false),
        ("mixtral", Family::Mixtral, [4, 2, 32], true),
        ("olmoe", Family::Olmoe, [8, 4, 32], false),
        ("gpt_oss", Family::GptOss, [6, 3, 32], true),
        ("gpt_oss_mxfp4", Family::GptOss, [6, 3, 32], true),
    ];
    for (name, family, sizes, is_renormalised) in cases {
        let config = parsed(name, json!({})).unwrap();
        let experts = config.experts.as_ref().unwrap();
        assert_eq!(config.family, family);
        assert_eq!([experts.n_experts, experts.n_chosen, experts.intermediate], sizes, "{name}");
        assert_eq!(experts.is_renormalised, is_renormalised, "{name}");
        assert_eq!(config.has_qk_norm, !matches!(family, Family::Mixtral | Family::GptOss));
        for layer in 0..config.n_layers {
            assert_eq!(config.experts_of(layer).is_none(), name == "qwen3_moe_mixed" && layer == 1);
        }
    }
    // 4 heads and as many key/value heads of 16.
    assert_eq!(parsed("olmoe", json!({})).unwrap().qk_norm_lens(0), [64, 64]);
    assert_eq!(parsed("qwen3_moe", json!({})).unwrap().qk_norm_lens(0), [32, 32]);
}

#[test]
fn either_name_of_the_number_of_experts_is_read() {
    let renamed = json!({"num_experts": null, "num_local_experts": 8});
    assert_eq!(parsed("olmoe", renamed).unwrap(), parsed("olmoe", json!({})).unwrap());
    assert!(parsed("olmoe", json!({"num_local_experts": 8})).is_ok());
    check_refused(
        "olmoe",
        json!({"num_local_experts": 9}),
        "num_local_experts must be as many as num_experts says (8), got 9",
    );
}

#[test]
fn every_nth_layer_has_experts_less_those_that_are_listed() {
    let dense = |changes: Value| -> Vec<usize> {
        let config = parsed("qwen3_moe", changes.clone()).unwrap();
        (0..config.n_layers).filter(|&layer| config.experts_of(layer).is_none()).collect()
    };
    // Layers count from 1: of six, the second, fourth and sixth have experts.
    assert_eq!(dense(json!({"num_hidden_layers": 6, "decoder_sparse_step": 2})), [0, 2, 4]);
    let both = json!({"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [5, 0]});
    assert_eq!(dense(both), [0, 2, 4, 5]);
    assert_eq!(dense(json!({"decoder_sparse_step": null, "mlp_only_layers": null})), [0; 0]);
}

#[test]
fn hostile_configurations_are_refused() {
    let number = |field: &str, max: usize, got: &str| {
        format!("{field} must be a whole number from 1 to {max}, got {got}")
    };
    for (name, n_experts) in [("qwen3_moe", 8), ("olmoe", 8)] {
        for got in ["0", "-1", "1.5", "9", "18446744073709551615"] {
            let value: Value = serde_json::from_str(got).unwrap();
            let expected = number("num_experts_per_tok", n_experts, got);
            check_refused(name, json!({"num_experts_per_tok": value}), &expected);
        }
        check_refused(name, json!({"num_experts": 0}), &number("num_experts", 4096, "0"));
        check_refused(name, json!({"num_experts": 1 << 20}), &number("num_experts", 4096, "1048576"));
        check_refused(name, json!({"num_experts": null}), "config.json lacks num_experts");
        check_refused(name, json!({"num_experts_per_tok": null}), "config.json lacks num_experts_per_tok");
        check_refused(name, json!({"norm_topk_prob": 1}), "norm_topk_prob must be true or false, got 1");
        for (field, got) in
            [("n_shared_experts", "1"), ("shared_expert_intermediate_size", "32"), ("n_routed_experts", "8")]
        {
            let expected = format!(
                "another kind of experts is not supported ({field}: {got}); use another model, or remove the field if the weights do not need it"
            );
            check_refused(name, json!({field: got.parse::<u32>().unwrap()}), &expected);
        }
    }
    check_refused("mixtral", json!({"num_local_experts": null}), "config.json lacks num_experts");
    check_refused("mixtral", json!({"num_experts_per_tok": 5}), &number("num_experts_per_tok", 4, "5"));
    check_refused(
        "qwen3_moe",
        json!({"moe_intermediate_size": null}),
        "config.json lacks moe_intermediate_size",
    );
    check_refused(
        "qwen3_moe",
        json!({"moe_intermediate_size": 0}),
        &number("moe_intermediate_size", 1 << 20, "0"),
    );
    check_refused("qwen3_moe", json!({"decoder_sparse_step": 0}), &number("decoder_sparse_step", 512, "0"));
    check_refused(
        "qwen3_moe",
        json!({"mlp_only_layers": 1}),
        "mlp_only_layers must be a list of layers, got 1",
    );
    for (listed, got) in
        [(json!([2]), "2"), (json!([0, -1]), "-1"), (json!([0.5]), "0.5"), (json!(["0"]), "\"0\"")]
    {
        let expected = format!("mlp_only_layers must be layers below 2, got {got}");
        check_refused("qwen3_moe", json!({"mlp_only_layers": listed}), &expected);
    }
    check_refused(
        "olmoe",
        json!({"clip_qkv": 8.0}),
        "clipped queries, keys and values is not supported (clip_qkv: 8.0); use another model, or remove the field if the weights do not need it",
    );
}

#[test]
fn fixtures_hold_every_expert() {
    for name in ["qwen3_moe", "qwen3_moe_mixed", "mixtral", "olmoe", "gpt_oss", "gpt_oss_mxfp4"] {
        let checkpoint = open(name);
        let config = checkpoint.config();
        let n_weights = checkpoint.stored_bytes();
        assert_eq!(checkpoint.weight_bytes(), n_weights, "{name}: every tensor is used");
        for layer in (0..config.n_layers).filter(|&layer| config.experts_of(layer).is_some()) {
            let experts = config.experts_of(layer).unwrap();
            let router = checkpoint.router(layer).unwrap();
            assert_eq!([router.n_out, router.n_in], [experts.n_experts, config.hidden]);
            let stored = checkpoint.experts(layer).unwrap();
            assert_eq!(stored.iter().len(), experts.n_experts);
            for expert in stored.iter() {
                assert_eq!([expert.gate.n_out, expert.gate.n_in], [experts.intermediate, config.hidden]);
                assert_eq!([expert.up.n_out, expert.up.n_in], [experts.intermediate, config.hidden]);
                assert_eq!([expert.down.n_out, expert.down.n_in], [config.hidden, experts.intermediate]);
            }
        }
    }
}

/// Tensors of a folder that is being written.
type Tensors = BTreeMap<String, (SafeDtype, Vec<usize>, Vec<u8>)>;

/// The tensors of a fixture, experts of a layer in one tensor as newer files have them.
fn fused(checkpoint: &Checkpoint) -> Tensors {
    let config = checkpoint.config();
    let mut tensors = Tensors::new();
    for name in checkpoint.tensor_names().filter(|name| !name.contains(".experts.")) {
        let stored = checkpoint.stored(name).unwrap();
        let name = name.replace(".block_sparse_moe.", ".mlp.");
        tensors.insert(name, (safe(stored.dtype), stored.shape.to_vec(), stored.bytes.to_vec()));
    }
    for layer in 0..config.n_layers {
        let Some(experts) = config.experts_of(layer) else { continue };
        let stored = checkpoint.experts(layer).unwrap();
        let all: Vec<_> = stored.iter().collect();
        let gate_up = all.iter().flat_map(|expert| [expert.gate.bytes, expert.up.bytes].concat()).collect();
        let down = all.iter().flat_map(|expert| expert.down.bytes.to_vec()).collect();
        let dtype = safe(all[0].gate.dtype);
        for (part, n_out, n_in, bytes) in [
            ("gate_up_proj", 2 * experts.intermediate, config.hidden, gate_up),
            ("down_proj", config.hidden, experts.intermediate, down),
        ] {
            let name = format!("model.layers.{layer}.mlp.experts.{part}");
            tensors.insert(name, (dtype, vec![experts.n_experts, n_out, n_in], bytes));
        }
    }
    tensors
}

fn safe(dtype: Dtype) -> SafeDtype {
    if dtype == Dtype::F32 { SafeDtype::F32 } else { SafeDtype::BF16 }
}

fn written(name: &str, tensors: &Tensors) -> Result<Checkpoint, Error> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name).join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    Checkpoint::open(folder.path())
}

#[test]
fn fused_experts_are_the_single_ones() {
    for name in ["qwen3_moe", "qwen3_moe_mixed", "mixtral", "olmoe"] {
        let single = open(name);
        let fused = written(name, &fused(&single)).unwrap();
        let names = |checkpoint: &Checkpoint| {
            let mut names: Vec<String> = checkpoint.tensor_names().map(String::from).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&fused), names(&single), "{name}");
        for tensor in single.tensor_names() {
            let (expected, got) = (single.stored(tensor).unwrap(), fused.stored(tensor).unwrap());
            assert_eq!((got.shape, got.bytes), (expected.shape, expected.bytes), "{name} {tensor}");
        }
    }
}

#[test]
fn broken_experts_are_refused_by_name() {
    let single = open("qwen3_moe");
    let check = |change: &dyn Fn(&mut Tensors), expected: &str| {
        let mut tensors = fused(&single);
        change(&mut tensors);
        let checkpoint = written("qwen3_moe", &tensors);
        let loaded = checkpoint.and_then(|checkpoint| {
            checkpoint.router(1)?;
            checkpoint.experts(1).map(drop)
        });
        assert_eq!(loaded.unwrap_err().to_string(), expected);
    };
    let shape = |tensors: &mut Tensors, name: &str, shape: &[usize]| {
        tensors.get_mut(name).unwrap().1 = shape.to_vec();
    };
    check(
        &|tensors| shape(tensors, "model.layers.1.mlp.experts.gate_up_proj", &[4, 128, 64]),
        "tensor model.layers.1.mlp.experts.gate_up_proj must have shape [8, 64, 64], got [4, 128, 64]",
    );
    check(
        &|tensors| shape(tensors, "model.layers.1.mlp.experts.down_proj", &[8 * 64, 32]),
        "tensor model.layers.1.mlp.experts.down_proj must have shape [8, 64, 32], got [512, 32]",
    );
    check(
        &|tensors| shape(tensors, "model.layers.1.mlp.gate.weight", &[64, 8]),
        "tensor model.layers.1.mlp.gate.weight must have shape [8, 64], got [64, 8]",
    );
    check(
        &|tensors| drop(tensors.remove("model.layers.1.mlp.experts.down_proj")),
        "the weights lack tensor model.layers.1.mlp.experts.0.down_proj.weight",
    );
    check(
        &|tensors| drop(tensors.remove("model.layers.1.mlp.gate.weight")),
        "the weights lack tensor model.layers.1.mlp.gate.weight",
    );
    let shared = "model.layers.1.mlp.shared_expert.up_proj.weight";
    check(
        &|tensors| drop(tensors.insert(shared.to_string(), (SafeDtype::F32, vec![1, 64], vec![0; 256]))),
        &format!(
            "the weights have {shared}, which config.json does not declare; correct config.json (attention_bias and mlp_bias \
             declare biases), or use another model"
        ),
    );
}
