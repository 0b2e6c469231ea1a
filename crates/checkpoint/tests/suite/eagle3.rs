//! EAGLE-3 heads: what is read, and what is refused in which words.

mod gguf;
mod speculators;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dsde_checkpoint::{Checkpoint, Dtype, Eagle3Checkpoint, Eagle3Config};
use safetensors::tensor::{Dtype as Stored, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

const VOCAB: usize = 10;
const HIDDEN: usize = 4;
/// Tokens that the head guesses.
const GUESSED: [u32; 4] = [0, 3, 4, 9];

/// Element type, shape and bytes of a tensor.
type Tensor = (Stored, Vec<usize>, Vec<u8>);

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": HIDDEN,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "vocab_size": VOCAB,
        "draft_vocab_size": GUESSED.len(), "tie_word_embeddings": false,
    })
}

fn with(changes: &Value) -> Value {
    let mut config = config();
    config.as_object_mut().unwrap().append(&mut changes.as_object().unwrap().clone());
    config
}

fn floats(shape: &[usize]) -> Tensor {
    let n_elements: usize = shape.iter().product();
    (Stored::F32, shape.to_vec(), (0..n_elements).flat_map(|i| (i as f32).to_le_bytes()).collect())
}

fn distances(distances: &[i64]) -> Tensor {
    (Stored::I64, vec![distances.len()], distances.iter().flat_map(|d| d.to_le_bytes()).collect())
}

fn flags(tokens: &[u32]) -> Tensor {
    (Stored::BOOL, vec![VOCAB], (0..VOCAB as u32).map(|token| u8::from(tokens.contains(&token))).collect())
}

fn tensors() -> BTreeMap<String, Tensor> {
    let (q, kv) = (HIDDEN, HIDDEN / 2);
    let all: [(&str, Tensor); 15] = [
        ("fc.weight", floats(&[HIDDEN, 3 * HIDDEN])),
        ("midlayer.input_layernorm.weight", floats(&[HIDDEN])),
        ("midlayer.hidden_norm.weight", floats(&[HIDDEN])),
        ("midlayer.post_attention_layernorm.weight", floats(&[HIDDEN])),
        ("midlayer.self_attn.q_proj.weight", floats(&[q, 2 * HIDDEN])),
        ("midlayer.self_attn.k_proj.weight", floats(&[kv, 2 * HIDDEN])),
        ("midlayer.self_attn.v_proj.weight", floats(&[kv, 2 * HIDDEN])),
        ("midlayer.self_attn.o_proj.weight", floats(&[HIDDEN, q])),
        ("midlayer.mlp.gate_proj.weight", floats(&[6, HIDDEN])),
        ("midlayer.mlp.up_proj.weight", floats(&[6, HIDDEN])),
        ("midlayer.mlp.down_proj.weight", floats(&[HIDDEN, 6])),
        ("norm.weight", floats(&[HIDDEN])),
        ("lm_head.weight", floats(&[GUESSED.len(), HIDDEN])),
        ("d2t", distances(&[0, 2, 2, 6])),
        ("t2d", flags(&GUESSED)),
    ];
    all.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

fn write_weights(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

fn folder(config: &Value, tensors: &BTreeMap<String, Tensor>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    write_weights(&folder.path().join("model.safetensors"), tensors);
    folder
}

fn opened(config: &Value, tensors: &BTreeMap<String, Tensor>) -> Result<Eagle3Checkpoint, String> {
    found(folder(config, tensors).path())
}

fn found(path: &Path) -> Result<Eagle3Checkpoint, String> {
    Ok(Eagle3Checkpoint::find(path).map_err(|error| error.to_string())?.expect("a head"))
}

fn parsed(changes: &Value) -> Result<Eagle3Config, String> {
    Eagle3Config::parse(with(changes).to_string().as_bytes()).map_err(|error| error.to_string())
}

#[track_caller]
fn check_config_refused(changes: &Value, expected: &str) {
    assert_eq!(parsed(changes).unwrap_err(), expected, "{changes}");
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut BTreeMap<String, Tensor>), expected: &str) {
    let mut tensors = tensors();
    change(&mut tensors);
    assert_eq!(opened(&config(), &tensors).unwrap_err(), expected);
}

#[test]
fn a_published_head_opens() {
    let folder = folder(&config(), &tensors());
    assert!(Eagle3Checkpoint::is_folder(folder.path()).unwrap());
    let head = found(folder.path()).unwrap();
    assert_eq!(head.vocabulary(), GUESSED);
    assert_eq!(head.layer(), "midlayer");
    let config = head.config();
    assert_eq!((config.layer.hidden, config.layer.n_kv_heads, config.layer.head_dim), (HIDDEN, 1, 2));
    assert_eq!((config.target_hidden, config.draft_vocab_len, config.layer.vocab_len), (HIDDEN, 4, VOCAB));
    assert!(!config.norm_before_residual && head.embeddings().unwrap().is_none());
    assert_eq!(head.dtypes(), [(Dtype::F32, 13)]);
    // fc, four projections of attention, three of the feed-forward layer, the output and four norms.
    let n_weights = 4 * 12 + 2 * (8 * 4) + 4 * 4 + 3 * 24 + 4 * 4 + 4 * 4;
    assert_eq!(head.weight_bytes(), 4 * n_weights);
}

#[test]
fn names_of_other_tools_are_known() {
    let mut renamed = BTreeMap::new();
    for (name, tensor) in tensors() {
        renamed.insert(name.replace("midlayer.", "layers.0."), tensor);
    }
    renamed.insert("layers.0.self_attn.rotary_emb.inv_freq".to_owned(), floats(&[1]));
    renamed.insert("embed_tokens.weight".to_owned(), floats(&[VOCAB, HIDDEN]));
    let head = opened(&with(&json!({"architectures": ["Eagle3LlamaForCausalLM"]})), &renamed).unwrap();
    assert_eq!(head.layer(), "layers.0");
    assert!(head.embeddings().unwrap().is_some());
}

#[test]
fn other_folders_are_no_heads() {
    let models = with(&json!({"architectures": ["LlamaForCausalLM"]}));
    assert!(!Eagle3Checkpoint::is_folder(folder(&models, &tensors()).path()).unwrap());
    assert!(!Eagle3Checkpoint::is_folder(tempfile::tempdir().unwrap().path()).unwrap());
    assert!(!Eagle3Checkpoint::is_folder(Path::new("/no/such/folder")).unwrap());
    for odd in ["[]", "7", "{\"architectures\": 5}"] {
        assert!(!Eagle3Config::describes(odd.as_bytes()).unwrap(), "{odd}");
    }
    assert!(Eagle3Config::describes(b"{").is_err());
}

#[test]
fn a_head_is_no_model_of_its_own() {
    let error = Checkpoint::open(folder(&config(), &tensors()).path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an EAGLE-3 head as a model of its own is not supported (architectures: LlamaForCausalLMEagle3); \
         give it as the draft of the model that it was trained for"
    );
}

#[test]
fn a_head_without_a_smaller_vocabulary_guesses_every_token() {
    let mut all = tensors();
    all.remove("d2t");
    all.remove("t2d");
    all.insert("lm_head.weight".to_owned(), floats(&[VOCAB, HIDDEN]));
    for changes in [json!({"draft_vocab_size": VOCAB}), json!({"draft_vocab_size": null})] {
        let head = opened(&with(&changes), &all).unwrap();
        assert!(head.vocabulary().iter().copied().eq(0..VOCAB as u32));
    }
}

#[test]
fn the_tapped_layers_are_those_of_the_authors_or_of_the_file() {
    let taps = |changes: Value, n_layers| parsed(&changes).unwrap().taps_in(n_layers).ok();
    assert_eq!(taps(json!({}), 32), Some(vec![2, 16, 29]));
    assert_eq!(
        taps(json!({"eagle_config": {"eagle_aux_hidden_state_layer_ids": []}}), 32),
        Some(vec![2, 16, 29])
    );
    assert_eq!(taps(json!({}), 3), Some(vec![2, 1, 0]));
    assert_eq!(taps(json!({}), 2), None);
    // The stream that enters layer i, and the output of layer i.
    assert_eq!(taps(json!({"eagle_aux_hidden_state_layer_ids": [2, 16, 29]}), 32), Some(vec![2, 16, 29]));
    let inner = json!({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 15, 28]}});
    assert_eq!(taps(inner.clone(), 32), Some(vec![2, 16, 29]));
    assert_eq!(taps(inner.clone(), 30), Some(vec![2, 16, 29]));
    assert_eq!(taps(inner.clone(), 29), None);
    let mut both = inner;
    both["eagle_aux_hidden_state_layer_ids"] = json!([2, 16, 29]);
    assert_eq!(taps(both.clone(), 32), Some(vec![2, 16, 29]));
    both["eagle_aux_hidden_state_layer_ids"] = json!([1, 15, 28]);
    check_config_refused(
        &both,
        "eagle_aux_hidden_state_layer_ids must be that of eagle_config and 1 each ([2, 16, 29]), got [1, 15, 28]",
    );
    let five = json!({"eagle_aux_hidden_state_layer_ids": [1, 9, 17, 25, 33]});
    assert_eq!(taps(five.clone(), 36), Some(vec![1, 9, 17, 25, 33]));
    assert_eq!(parsed(&five).unwrap().n_taps(), 5);
    for odd in [json!(vec![0; 17]), json!([1, 2, -3]), json!([1, 2, 600]), json!([1, 2, "3"])] {
        let expected =
            format!("eagle_aux_hidden_state_layer_ids must be at most 16 numbers of layers, got {odd}");
        check_config_refused(&json!({"eagle_aux_hidden_state_layer_ids": odd}), &expected);
    }
    check_config_refused(
        &json!({"eagle_aux_hidden_state_layer_ids": 7}),
        "eagle_aux_hidden_state_layer_ids must be a list, got 7",
    );
}

#[test]
fn what_a_head_may_ask_for_and_is_not_implemented_is_refused_by_name() {
    let cases = [
        (json!({"num_hidden_layers": 2}), "a head of several layers is not supported (num_hidden_layers: 2)"),
        (
            json!({"bias": true}),
            "a bias of the projection of the target's states is not supported (bias: true)",
        ),
        (
            json!({"use_aux_norm": true}),
            "another norm of the target's states is not supported (use_aux_norm: true)",
        ),
        (
            json!({"eagle_config": {"use_aux_hidden_state": false}}),
            "a head that reads the last layer alone is not supported (use_aux_hidden_state: false)",
        ),
    ];
    for (changes, expected) in cases {
        check_config_refused(&changes, &format!("{expected}; use another head"));
    }
    check_config_refused(
        &json!({"draft_vocab_size": VOCAB + 1}),
        "draft_vocab_size must be at most vocab_size (10), got 11",
    );
    check_config_refused(
        &json!({"target_hidden_size": 0}),
        "target_hidden_size must be a whole number from 1 to 65536, got 0",
    );
    check_config_refused(&json!({"eagle_config": 3}), "eagle_config must be an object, got 3");
    check_config_refused(
        &json!({"rope_scaling": {"type": "mrope", "factor": 2.0}}),
        "rotary scaling other than linear, dynamic, yarn, longrope, llama3 and proportional is not supported (rope_scaling.type: mrope); set \
         it to \"default\" in config.json, and leave rope_theta, to serve contexts up to the original length",
    );
    assert!(parsed(&json!({"bias": false, "fc_norm": false, "eagle_config": null})).is_ok());
}

#[test]
fn weights_that_may_hold_code_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
    fs::write(folder.path().join("pytorch_model.bin"), "PK").unwrap();
    let error = found(folder.path()).unwrap_err();
    let expected = "has no model.safetensors, and pytorch_model.bin is not read, since such files can hold code; convert it with \
                    `safetensors.torch.save_file(torch.load('pytorch_model.bin', weights_only=True), 'model.safetensors')`";
    assert!(error.ends_with(expected), "{error}");
    fs::remove_file(folder.path().join("pytorch_model.bin")).unwrap();
    let error = found(folder.path()).unwrap_err();
    assert!(error.contains("has no model.safetensors or model.safetensors.index.json"), "{error}");
}

#[test]
fn tokens_that_are_no_distinct_ones_of_the_target_are_refused() {
    let expected = |i: usize, got: i64| {
        format!("d2t[{i}] must be the distance to a token below 10 that no other entry leads to, got {got}")
    };
    for (d2t, i, got) in [
        ([0, 2, 2, 7], 3, 7),
        ([-1, 2, 2, 6], 0, -1),
        ([0, 2, 1, 6], 2, 1),
        ([0, 2, 2, i64::MAX], 3, i64::MAX),
        ([i64::MIN, 2, 2, 6], 0, i64::MIN),
    ] {
        let change = |tensors: &mut BTreeMap<String, Tensor>| {
            tensors.insert("d2t".to_owned(), distances(&d2t));
        };
        check_refused(change, &expected(i, got));
    }
    let insert = |name: &'static str, tensor: Tensor| {
        move |tensors: &mut BTreeMap<String, Tensor>| {
            tensors.insert(name.to_owned(), tensor);
        }
    };
    check_refused(insert("t2d", flags(&[0, 3, 4])), "t2d[9] must be true, as d2t says, got false");
    check_refused(insert("t2d", flags(&[0, 1, 3, 4, 9])), "t2d[1] must be false, as d2t says, got true");
    check_refused(insert("d2t", floats(&[4])), "tensor d2t must hold I64, got F32");
    check_refused(insert("t2d", distances(&[1; VOCAB])), "tensor t2d must hold BOOL, got I64");
    check_refused(insert("d2t", distances(&[0, 2, 2])), "tensor d2t must have shape [4], got [3]");
    check_refused(
        |tensors| {
            tensors.remove("d2t");
        },
        "the weights lack tensor d2t",
    );
}

#[test]
fn tensors_without_a_use_are_refused() {
    for name in
        ["midlayer.self_attn.q_norm.weight", "midlayer.self_attn.q_proj.bias", "layers.1.mlp.up_proj.weight"]
    {
        let expected =
            format!("the weights have {name}, which an EAGLE-3 head does not declare; use another head");
        check_refused(
            |tensors| {
                tensors.insert(name.to_owned(), floats(&[2]));
            },
            &expected,
        );
    }
}
