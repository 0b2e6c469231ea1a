//! Heads in GGUF files, as llama.cpp's converter writes them.

use std::path::Path;

use dsde_checkpoint::config::StateNorms;
use dsde_checkpoint::{Checkpoint, Dtype, Eagle3Checkpoint, RowOrder};
use serde_json::json;

use super::super::gguf::writer::{F32, FLAG, I32, Writer};
use super::super::gguf::written;
use super::{GUESSED, HIDDEN, Stored, VOCAB, floats, folder, found, opened, tensors, with};

/// Numbers of element types in the table of tensors.
const F32_TENSOR: u32 = 0;
const I64_TENSOR: u32 = 27;

/// The head of the other tests.
fn converted() -> Writer {
    let mut writer = Writer::default();
    writer.text("general.architecture", "eagle3");
    for (name, n) in [
        ("block_count", 1),
        ("vocab_size", VOCAB as u32),
        ("embedding_length", HIDDEN as u32),
        ("target_hidden_size", HIDDEN as u32),
        ("context_length", 64),
        ("feed_forward_length", 6),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", 2),
    ] {
        writer.u32(&format!("eagle3.{name}"), n);
    }
    writer.f32("eagle3.attention.layer_norm_rms_epsilon", 1e-5);
    layers(&mut writer, &[2, 16, 29]);
    for (name, (dtype, shape, bytes)) in tensors() {
        match dtype {
            // t2d follows from d2t, and is left out.
            Stored::BOOL => {}
            Stored::I64 => {
                vocabulary(&mut writer, &GUESSED.map(i64::from));
            }
            _ => {
                writer.tensor(&gguf_name(&name), &shape, F32_TENSOR, bytes);
            }
        }
    }
    writer
}

fn layers<'a>(writer: &'a mut Writer, layers: &[i32]) -> &'a mut Writer {
    let bytes: Vec<u8> = layers.iter().flat_map(|n| n.to_le_bytes()).collect();
    writer.array("eagle3.target_layers", I32, layers.len() as u64, bytes)
}

/// Tokens of the target, not distances.
fn vocabulary<'a>(writer: &'a mut Writer, tokens: &[i64]) -> &'a mut Writer {
    writer.tensors.retain(|tensor| tensor.name != "d2t");
    let bytes = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    writer.tensor("d2t", &[tokens.len()], I64_TENSOR, bytes)
}

fn gguf_name(name: &str) -> String {
    const NAMES: [(&str, &str); 12] = [
        ("midlayer.", "blk.0."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("hidden_norm", "attn_norm_2"),
        ("post_attention_layernorm", "ffn_norm"),
        ("lm_head", "output"),
    ];
    let name = if name == "norm.weight" { "output_norm.weight" } else { name };
    NAMES.iter().fold(name.to_string(), |name, (from, to)| name.replacen(from, to, 1))
}

#[test]
fn a_file_says_what_the_folder_says() {
    let (_folder, path) = written(&converted().bytes());
    let got = found(&path).unwrap();
    let expected =
        opened(&with(&json!({"eagle_aux_hidden_state_layer_ids": [2, 16, 29]})), &tensors()).unwrap();
    assert_eq!(got.vocabulary(), GUESSED);
    let (of_file, of_folder) = (got.config(), expected.config());
    assert_eq!((of_file.target_hidden, of_file.draft_vocab_len), (of_folder.target_hidden, GUESSED.len()));
    assert_eq!((of_file.norm_before_residual, of_file.state_norms), (false, StateNorms::None));
    assert_eq!(of_file.taps_in(32).unwrap(), [2, 16, 29]);
    assert_eq!(of_file.layer.ropes, of_folder.layer.ropes);
    let sizes = |head: &Eagle3Checkpoint| {
        let layer = &head.config().layer;
        (layer.vocab_len, layer.hidden, layer.n_heads, layer.n_kv_heads, layer.head_dim, layer.intermediate)
    };
    assert_eq!(sizes(&got), sizes(&expected));
    assert_eq!(got.weight_bytes(), expected.weight_bytes());
    for name in expected.weights().tensor_names().filter(|name| !["d2t", "t2d"].contains(name)) {
        let of_file = got.weights().stored(&name.replace("midlayer.", "model.layers.0.")).unwrap();
        assert_eq!(of_file.bytes, expected.weights().stored(name).unwrap().bytes, "{name}");
    }
    let order = |head: &Eagle3Checkpoint, n_out| {
        let name = format!("{}.self_attn.q_proj.weight", head.layer());
        head.weights().matrix(&name, n_out, 2 * HIDDEN).unwrap().order
    };
    assert_eq!(order(&expected, HIDDEN), RowOrder::AsIs);
    assert_eq!(order(&got, HIDDEN), RowOrder::Interleaved { head_dim: 2, span: 2 });
}

#[test]
fn what_a_file_may_have_besides_is_read() {
    let mut writer = converted();
    writer.value("eagle3.norm_before_residual", FLAG, [1]);
    writer.value("eagle3.norm_before_fc", FLAG, [1]);
    writer.tensor("enc.output_norm.weight", &[3 * HIDDEN], F32_TENSOR, floats(&[3 * HIDDEN]).2);
    writer.tensor("token_embd.weight", &[VOCAB, HIDDEN], F32_TENSOR, floats(&[VOCAB, HIDDEN]).2);
    let (_folder, path) = written(&writer.bytes());
    let head = found(&path).unwrap();
    assert_eq!((head.config().norm_before_residual, head.config().state_norms), (true, StateNorms::Joint));
    assert_eq!(head.state_norms().unwrap(), [(0..3 * HIDDEN).map(|i| i as f32).collect::<Vec<_>>()]);
    assert!(head.embeddings().unwrap().is_some());
    assert_eq!(head.dtypes(), [(Dtype::F32, 15)]);
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut Writer) -> &mut Writer, expected: &str) {
    let mut writer = converted();
    change(&mut writer);
    let (_folder, path) = written(&writer.bytes());
    assert_eq!(found(&path).unwrap_err(), expected);
}

fn without_tensor<'a>(writer: &'a mut Writer, name: &str) -> &'a mut Writer {
    writer.tensors.retain(|tensor| tensor.name != name);
    writer
}

#[test]
fn hostile_vocabularies_are_refused_by_name() {
    let expected = "a token below 10 that no other entry names";
    for (tokens, i, got) in [([0, 3, 4, 10], 3, 10), ([-1, 3, 4, 9], 0, -1), ([0, 3, 3, 9], 2, 3)] {
        let expected = format!("d2t[{i}] must be {expected}, got {got}");
        check_refused(|writer| vocabulary(writer, &tokens), &expected);
    }
    check_refused(|writer| vocabulary(writer, &[0, 3, 4]), "tensor d2t must have shape [4], got [3]");
    let size = "eagle3.vocab_size";
    check_refused(|writer| writer.without(size), "the metadata lack eagle3.vocab_size");
    check_refused(
        |writer| writer.u32(size, 3),
        "the rows of output.weight must be at most the vocabulary (3), got 4",
    );
}

#[test]
fn hostile_keys_are_refused_by_name() {
    let key = "eagle3.target_layers";
    for (listed, got) in [(&[][..], "[]"), (&[2, 16, -29], "[2,16,-29]"), (&[2, 16, 512], "[2,16,512]")] {
        let expected = format!("{key} must be at most 16 numbers of layers, got {got}");
        check_refused(|writer| layers(writer, listed), &expected);
    }
    let shown = "7,".repeat(40);
    let shown = shown.strip_suffix(',').unwrap();
    let expected = format!("{key} must be at most 16 numbers of layers, got [{shown}...");
    check_refused(|writer| layers(writer, &[7; 1000]), &expected);
    check_refused(|writer| writer.without(key), "the metadata lack eagle3.target_layers");
    check_refused(
        |writer| writer.u32("eagle3.block_count", 2),
        "a head of several layers is not supported (eagle3.block_count: 2); use another head",
    );
    check_refused(
        |writer| writer.value("eagle3.target_hidden_size", F32, 4f32.to_le_bytes()),
        "eagle3.target_hidden_size must be a whole number that is not negative, got 4.0",
    );
}

#[test]
fn hostile_tensors_are_refused_by_name() {
    check_refused(|writer| without_tensor(writer, "output.weight"), "the weights lack tensor output.weight");
    check_refused(
        |writer| without_tensor(writer, "blk.0.attn_q.weight"),
        "the weights lack tensor model.layers.0.self_attn.q_proj.weight",
    );
    // Rotary factors of another kind would change what is computed.
    for name in ["rope_freqs.weight", "token_embd.weight"] {
        let expected = format!("tensor {name} must be one of {:?}, got I64; convert the weights", Dtype::ALL);
        check_refused(|writer| writer.tensor(name, &[1], I64_TENSOR, vec![0; 8]), &expected);
    }
    check_refused(
        |writer| writer.tensor("blk.0.attn_q_norm.weight", &[2], F32_TENSOR, floats(&[2]).2),
        "the weights have model.layers.0.self_attn.q_norm.weight, which an EAGLE-3 head does not declare; use another head",
    );
}

#[test]
fn files_of_heads_are_no_models_and_files_of_models_no_heads() {
    let (_folder, path) = written(&converted().bytes());
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("an EAGLE-3 head as a model of its own"), "{error}");
    let mut other = Writer::default();
    other.text("general.architecture", "llama");
    let (_folder, path) = written(&other.bytes());
    assert!(Eagle3Checkpoint::find(&path).unwrap().is_none());
    let folder = folder(&with(&json!({"architectures": ["LlamaForCausalLM"]})), &tensors());
    assert!(Eagle3Checkpoint::find(folder.path()).unwrap().is_none());
    assert!(Eagle3Checkpoint::find(Path::new("/no/such/folder")).is_err());
}
