//! Assistants of Gemma 4: what their folders and GGUF files say, and what is refused in which words.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dsde_checkpoint::config::{Centroids, KvHeads, KvSource};
use dsde_checkpoint::{AssistantCheckpoint, AssistantConfig, Checkpoint, Dtype, ModelConfig};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Stored, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixtures::{changed, fixture};
use super::gguf::writer::{FLAG, I32, Writer, f32s};
use super::gguf::written;

const DENSE: &str = "gemma4_assistant";
/// Scores tokens in groups.
const GROUPED: &str = "gemma4_shared_assistant";
const ORDER: &str = "masked_embedding.token_ordering";

/// The configuration of a fixture with changes to its text part, and then to itself.
fn with(name: &str, text: &Value, outer: &Value) -> Value {
    let mut config = changed(name, outer);
    let Some(fields) = config["text_config"].as_object_mut() else { return config };
    for (field, value) in text.as_object().unwrap() {
        match value {
            Value::Null => drop(fields.remove(field)),
            value => drop(fields.insert(field.clone(), value.clone())),
        }
    }
    config
}

fn parsed(name: &str, text: &Value, outer: &Value) -> Result<AssistantConfig, String> {
    let config = with(name, text, outer);
    AssistantConfig::parse(config.to_string().as_bytes()).map_err(|error| error.to_string())
}

/// Element type, shape and bytes of tensors.
type Tensors = BTreeMap<String, (Stored, Vec<usize>, Vec<u8>)>;

fn tensors(name: &str) -> Tensors {
    let bytes = fs::read(fixture(name).join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    stored.tensors().into_iter().map(|(name, view)| (name, owned(view))).collect()
}

fn folder(config: &Value, tensors: &Tensors) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

fn find(path: &Path) -> Result<AssistantCheckpoint, String> {
    let found = AssistantCheckpoint::find(path).map_err(|error| error.to_string())?;
    Ok(found.expect("an assistant"))
}

#[test]
fn layers_read_what_the_target_has_stored() {
    let assistant = find(&fixture(DENSE)).unwrap();
    let AssistantConfig { model, target_hidden, centroids, .. } = assistant.config();
    assert_eq!((*target_hidden, *centroids, model.hidden, model.n_heads), (16, None, 24, 2));
    assert!(model.layers.iter().all(|layer| layer.kv == KvSource::Target && !layer.stores()));
    // 10 in the file: a position at that distance from the last stored one is seen, too.
    let windows: Vec<_> = model.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [Some(11), Some(11), None]);
    assert_eq!(model.kv_heads_of(0), KvHeads { n_kv_heads: 2, head_dim: 8 });
    assert_eq!(model.kv_heads_of(2), KvHeads { n_kv_heads: 1, head_dim: 16 });
    assert_eq!(model.projections_of(2), [("self_attn.q_proj", 32)]);
    assert_eq!(
        assistant.projections().unwrap().map(|matrix| [matrix.n_out, matrix.n_in]),
        [[24, 32], [16, 24]]
    );
    assert!(assistant.order().is_empty() && assistant.centroids().unwrap().is_none());
    let [(dtype, n_tensors)] = assistant.dtypes()[..] else { panic!("one type") };
    // The table, two projections, the last norm, and 11 tensors of each layer: 7 matrices less two, 5 norms and a factor.
    assert_eq!((dtype, n_tensors), (Dtype::Bf16, 4 + 3 * 11));
}

#[test]
fn tokens_may_be_scored_in_groups() {
    let assistant = find(&fixture(GROUPED)).unwrap();
    assert_eq!(assistant.config().centroids, Some(Centroids { n_centroids: 12, n_chosen: 4 }));
    let mut order = assistant.order().to_vec();
    assert!(!order.is_sorted());
    order.sort_unstable();
    assert_eq!(order, (0..48).collect::<Vec<u32>>());
    let centroids = assistant.centroids().unwrap().unwrap();
    assert_eq!((centroids.n_out, centroids.n_in), (12, 24));
    // As published files leave out: 2048 groups, of which 32 are asked.
    let bare = json!({"num_centroids": null, "centroid_intermediate_top_k": null});
    let config = parsed(GROUPED, &json!({"vocab_size": 4096}), &bare).unwrap();
    assert_eq!(config.centroids, Some(Centroids { n_centroids: 2048, n_chosen: 32 }));
    assert_eq!(
        parsed(GROUPED, &json!({}), &json!({"use_ordered_embeddings": false})).unwrap().centroids,
        None
    );
}

#[test]
fn files_may_say_less() {
    let whole = parsed(DENSE, &json!({}), &json!({})).unwrap();
    for text in [json!({"num_kv_shared_layers": 0}), json!({"num_kv_shared_layers": null})] {
        assert_eq!(parsed(DENSE, &text, &json!({})).unwrap(), whole);
    }
    // Nobody caps its logits, and nobody names it but by its type.
    let capped = json!({"final_logit_softcapping": 30.0});
    assert_eq!(parsed(DENSE, &capped, &json!({"architectures": null})).unwrap(), whole);
    // That of a unified model leaves out what no such model has.
    let unified = json!({
        "architectures": ["Gemma4UnifiedAssistantForCausalLM"], "model_type": "gemma4_unified_assistant",
    });
    let bare = json!({"hidden_size_per_layer_input": null, "sliding_window": null});
    assert_eq!(parsed(DENSE, &bare, &unified).unwrap().model.layers[0].window, Some(1025));
}

#[test]
fn hostile_configurations_are_refused_by_name() {
    let check = |text: Value, outer: Value, expected: &str| {
        let error = parsed(GROUPED, &text, &outer).expect_err(&format!("{text} {outer}"));
        assert!(error.contains(expected), "{text} {outer}: {error}");
    };
    for (text, expected) in [
        (
            json!({"num_kv_shared_layers": 2}),
            "num_kv_shared_layers must be as many as num_hidden_layers (3), got 2",
        ),
        (json!({"num_kv_shared_layers": -3}), "num_kv_shared_layers must be a whole number from 0 to 512"),
        (
            json!({"use_double_wide_mlp": true}),
            "an assistant with feed-forward parts of two widths is not supported (use_double_wide_mlp: true)",
        ),
        (
            json!({"enable_moe_block": true, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}),
            "an assistant with experts is not supported (4 of them)",
        ),
        (
            json!({"hidden_size_per_layer_input": null, "vocab_size_per_layer_input": null}),
            "an assistant with inputs per layer is not supported (hidden_size_per_layer_input: 256)",
        ),
        (json!({"num_hidden_layers": null}), "lacks num_hidden_layers"),
        (json!({"global_head_dim": 15}), "global_head_dim must be even"),
        (json!({"use_bidirectional_attention": "all"}), "attention to later tokens"),
        (json!({"vocab_size": 50}), "num_centroids must be a divisor of vocab_size (50), got 12"),
    ] {
        check(text, json!({}), expected);
    }
    for (outer, expected) in [
        (json!({"text_config": null}), "lacks text_config"),
        (json!({"text_config": 3}), "lacks text_config"),
        (json!({"backbone_hidden_size": null}), "lacks backbone_hidden_size"),
        (json!({"backbone_hidden_size": 0}), "backbone_hidden_size must be a whole number from 1 to 65536"),
        (json!({"num_centroids": 0}), "num_centroids must be a whole number from 1 to 48, got 0"),
        (json!({"num_centroids": null}), "num_centroids must be a divisor of vocab_size (48), got 2048"),
        (
            json!({"centroid_intermediate_top_k": 13}),
            "centroid_intermediate_top_k must be a whole number from 1 to 12, got 13",
        ),
        (json!({"use_ordered_embeddings": 1}), "use_ordered_embeddings must be true or false"),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "a quantised checkpoint"),
    ] {
        check(json!({}), outer, expected);
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let check = |change: &dyn Fn(&mut Tensors), expected: &str| {
        let mut tensors = tensors(GROUPED);
        change(&mut tensors);
        let error = find(folder(&changed(GROUPED, &json!({})), &tensors).path()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    for name in ["pre_projection.weight", "model.layers.1.layer_scalar", ORDER] {
        check(&|tensors| drop(tensors.remove(name)), name);
    }
    let key_norm = "model.layers.0.self_attn.k_norm.weight";
    check(&|tensors| drop(tensors.insert(key_norm.into(), (Stored::BF16, vec![8], vec![0; 16]))), key_norm);
    let narrow = (Stored::BF16, vec![24, 16], vec![0; 768]);
    check(&|tensors| drop(tensors.insert("pre_projection.weight".into(), narrow.clone())), "[24, 32]");
    for (at, token) in [(3, 48i64), (7, -1), (5, i64::MAX)] {
        let change = |tensors: &mut Tensors| {
            tensors.get_mut(ORDER).unwrap().2[at * 8..][..8].copy_from_slice(&token.to_le_bytes());
        };
        check(
            &change,
            &format!("{ORDER}[{at}] must be a token below 48 that no other entry names, got {token}"),
        );
    }
    let twice = |tensors: &mut Tensors| {
        let bytes = &mut tensors.get_mut(ORDER).unwrap().2;
        bytes.copy_within(0..8, 8);
    };
    check(&twice, &format!("{ORDER}[1] must be a token below 48 that no other entry names"));
    let of_floats = (Stored::F32, vec![48], vec![0; 192]);
    check(&|tensors| drop(tensors.insert(ORDER.into(), of_floats.clone())), ORDER);
    // The output projection that the table is may lie there, another one not.
    let with_output = |change: fn(&mut [u8])| {
        let mut tensors = tensors(GROUPED);
        let mut table = tensors["model.embed_tokens.weight"].clone();
        change(&mut table.2);
        tensors.insert("lm_head.weight".into(), table);
        find(folder(&changed(GROUPED, &json!({})), &tensors).path())
    };
    assert!(with_output(|_| ()).is_ok());
    assert!(with_output(|bytes| bytes[0] ^= 1).unwrap_err().contains("lm_head.weight"));
}

#[test]
fn nothing_else_is_an_assistant_and_no_assistant_is_a_model() {
    for other in ["gemma4", "llama2"] {
        assert!(AssistantCheckpoint::find(&fixture(other)).unwrap().is_none());
    }
    for (outer, got) in [
        (json!({}), "architectures: Gemma4AssistantForCausalLM"),
        (json!({"architectures": null}), "model_type: gemma4_assistant"),
    ] {
        let config = changed(DENSE, &outer).to_string();
        let error = ModelConfig::parse(config.as_bytes(), None).unwrap_err().to_string();
        let expected = format!("an assistant as a model of its own is not supported ({got})");
        assert!(error.starts_with(&expected), "{error}");
    }
    let (_folder, path) = written(&converted().bytes());
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("an assistant as a model of its own") && error.contains("gemma4-assistant"),
        "{error}"
    );
}

/// The dense fixture as llama.cpp's converter writes it.
fn converted() -> Writer {
    let mut writer = Writer::default();
    let key = |name: &str| format!("gemma4-assistant.{name}");
    writer.text("general.architecture", "gemma4-assistant");
    for (name, n) in [
        ("block_count", 3),
        ("nextn_predict_layers", 3),
        ("embedding_length", 24),
        ("embedding_length_out", 16),
        ("embedding_length_per_layer_input", 0),
        ("context_length", 128),
        ("feed_forward_length", 24),
        ("attention.head_count", 2),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("attention.key_length_swa", 8),
        ("attention.value_length_swa", 8),
        ("attention.sliding_window", 10),
        ("attention.shared_kv_layers", 3),
        ("rope.dimension_count", 16),
        ("rope.dimension_count_swa", 8),
    ] {
        writer.u32(&key(name), n);
    }
    for (name, x) in [
        ("attention.layer_norm_rms_epsilon", 1e-6),
        ("rope.freq_base", 100_000.0),
        ("rope.freq_base_swa", 1000.0),
    ] {
        writer.f32(&key(name), x);
    }
    writer.array(&key("attention.sliding_window_pattern"), FLAG, 3, [1, 1, 0]);
    let heads: Vec<u8> = [2i32, 2, 1].iter().flat_map(|n| n.to_le_bytes()).collect();
    writer.array(&key("attention.head_count_kv"), I32, 3, heads);
    writer.tensor("rope_freqs.weight", &[8], 0, f32s([1.0, 1.0, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30]));
    for (name, (_, shape, bytes)) in tensors(DENSE) {
        // bf16.
        writer.tensor(&gguf_name(&name), &shape, 30, bytes);
    }
    writer
}

fn gguf_name(name: &str) -> String {
    const NAMES: [(&str, &str); 16] = [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("pre_projection", "nextn.pre_projection"),
        ("post_projection", "nextn.post_projection"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("layer_scalar", "layer_output_scale.weight"),
    ];
    NAMES.iter().fold(name.to_string(), |name, (from, to)| name.replacen(from, to, 1))
}

#[test]
fn a_gguf_file_says_what_the_folder_says() {
    let (_folder, path) = written(&converted().bytes());
    let (got, expected) = (find(&path).unwrap(), find(&fixture(DENSE)).unwrap());
    let (of_file, of_folder) = (got.config(), expected.config());
    assert_eq!((of_file.target_hidden, of_file.centroids), (16, None));
    assert_eq!(of_file.model.layers, of_folder.model.layers);
    assert_eq!((of_file.model.hidden, of_file.model.n_heads, of_file.model.head_dim), (24, 2, 8));
    let turning = |config: &AssistantConfig| -> Vec<_> {
        config.model.ropes.iter().map(|rope| (rope.theta, rope.rotary_dim, rope.span)).collect()
    };
    assert_eq!(turning(of_file), turning(of_folder));
    assert_eq!((of_file.model.attention_scale, of_file.model.has_layer_scale), (1.0, true));
    assert_eq!(got.weight_bytes(), expected.weight_bytes());
    for name in expected.weights().tensor_names() {
        let [got, expected] =
            [&got, &expected].map(|assistant| assistant.weights().stored(name).unwrap().bytes);
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn hostile_keys_are_refused_by_name() {
    fn check(change: impl Fn(&mut Writer) -> &mut Writer, expected: &str) {
        let mut writer = converted();
        change(&mut writer);
        let (_folder, path) = written(&writer.bytes());
        let error = find(&path).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let key = |name: &str| format!("gemma4-assistant.{name}");
    check(|writer| writer.without(&key("embedding_length_out")), "embedding_length_out");
    check(
        |writer| writer.u32(&key("nextn_predict_layers"), 1),
        "gemma4-assistant.nextn_predict_layers must be all 3 layers, got 1",
    );
    check(|writer| writer.u32(&key("embedding_length_out"), 17), "[24, 34]");
    check(
        |writer| writer.tensor("blk.0.attn_k.weight", &[16, 24], 30, vec![0; 768]),
        "model.layers.0.self_attn.k_proj.weight",
    );
    check(
        |writer| writer.tensor("blk.0.nextn.eh_proj.weight", &[24, 24], 30, vec![0; 1152]),
        "blk.0.nextn.eh_proj.weight",
    );
}
