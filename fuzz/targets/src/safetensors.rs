//! Safetensors files: header, and the model or EAGLE-3 head that they are the weights of.

use dsde_checkpoint::Checkpoint;

use crate::gguf::{assert_head_if_any, assert_tensors};
use crate::input::files;

/// Of the model in `corpus/safetensors/model`.
const MODEL: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "vocab_size": 4, "hidden_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 1, "intermediate_size": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 8
}"#;
/// Of the head in `corpus/safetensors/head`.
const HEAD: &str = r#"{
    "architectures": ["LlamaForCausalLMEagle3"], "vocab_size": 4, "draft_vocab_size": 3, "hidden_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 8
}"#;

/// Weights that can be opened have all of their tensors; a head guesses tokens of its target, none twice.
pub fn safetensors(bytes: &[u8]) {
    let folder = files(&[("config.json", MODEL.as_bytes()), ("model.safetensors", bytes)]);
    if let Ok(model) = Checkpoint::open(folder.path()) {
        assert_tensors(&model);
    }
    let folder = files(&[("config.json", HEAD.as_bytes()), ("model.safetensors", bytes)]);
    assert_head_if_any(folder.path());
}
