//! A small random target and heads for it, as folders.

use std::collections::BTreeMap;
use std::fs;

use dsde_checkpoint::{Checkpoint, Eagle3Checkpoint};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const VOCAB: usize = 24;
pub(crate) const N_LAYERS: usize = 6;
pub(crate) const N_HEADS: usize = 4;
pub(crate) const N_KV_HEADS: usize = 2;
pub(crate) const HEAD_DIM: usize = 8;
pub(crate) const CONTEXT: usize = 160;
pub(crate) const THETA: f64 = 1000.0;
pub(crate) const EPS: f64 = 1e-5;
const INTERMEDIATE: usize = 48;

/// Shape and elements of a tensor.
pub(crate) type Tensor = (Vec<usize>, Vec<f32>);

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// What heads differ in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) hidden: usize,
    pub(crate) has_embeddings: bool,
    pub(crate) norm_before_residual: bool,
    /// How the names of the layer's tensors begin.
    pub(crate) layer: &'static str,
    /// After how many layers of the target the head reads its states, if it says so.
    pub(crate) taps: Option<&'static [usize]>,
    /// Norms of the target's states: none, one of all together, or one of each.
    pub(crate) n_state_norms: usize,
    pub(crate) norm_output: bool,
    /// Whether its layer is that of Qwen3, in the format of `speculators`.
    pub(crate) is_qwen3: bool,
}

pub(crate) const HIDDEN: usize = 32;

pub(crate) const PLAIN: Kind = Kind {
    hidden: HIDDEN,
    has_embeddings: false,
    norm_before_residual: false,
    layer: "midlayer",
    taps: None,
    n_state_norms: 0,
    norm_output: false,
    is_qwen3: false,
};

/// A model or head in a folder.
pub(crate) struct Files {
    pub(crate) folder: TempDir,
    pub(crate) tensors: Tensors,
}

/// The target.
pub(crate) fn target() -> (Files, Checkpoint) {
    let mut tensors = Tensors::new();
    let mut random = Random(11);
    for i in 0..N_LAYERS {
        let layer = format!("model.layers.{i}");
        add_layer(&mut tensors, &layer, HIDDEN, HIDDEN, &mut random);
    }
    // Large enough that the token read last says much about the next one.
    tensors.insert("model.embed_tokens.weight".into(), random.matrix(VOCAB, HIDDEN, 1.0));
    tensors.insert("model.norm.weight".into(), random.norm(HIDDEN));
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "num_hidden_layers": N_LAYERS,
        "tie_word_embeddings": true,
    });
    let files = write(with_sizes(config, HIDDEN), tensors);
    let checkpoint = Checkpoint::open(files.folder.path()).unwrap();
    (files, checkpoint)
}

/// Tokens that the heads guess: two of three.
pub(crate) fn guessed(vocab_len: usize) -> Vec<u32> {
    (0..vocab_len as u32).filter(|token| token % 3 != 1).collect()
}

/// A head for a target of `vocab_len` tokens and width `target_hidden`.
pub(crate) fn head(kind: Kind, vocab_len: usize, target_hidden: usize) -> (Files, Eagle3Checkpoint) {
    let Kind { hidden, has_embeddings, norm_before_residual, layer, taps, .. } = kind;
    let n_states = taps.map_or(3, <[usize]>::len) * target_hidden;
    let guessed = guessed(vocab_len);
    let mut tensors = Tensors::new();
    let mut random = Random(12);
    add_layer(&mut tensors, layer, hidden, 2 * hidden, &mut random);
    tensors.insert(format!("{layer}.hidden_norm.weight"), random.norm(hidden));
    tensors.insert("fc.weight".into(), random.matrix(hidden, n_states, 1.0));
    tensors.insert("norm.weight".into(), random.norm(hidden));
    tensors.insert("lm_head.weight".into(), random.matrix(guessed.len(), hidden, 2.0));
    if has_embeddings {
        tensors.insert("embed_tokens.weight".into(), random.matrix(vocab_len, hidden, 1.0));
    }
    match kind.n_state_norms {
        1 => drop(tensors.insert("input_norm.weight".into(), random.norm(n_states))),
        n => (0..n).for_each(|i| drop(tensors.insert(state_norm(i), random.norm(target_hidden)))),
    }
    if kind.is_qwen3 {
        for module in ["q_norm", "k_norm"] {
            tensors.insert(format!("{layer}.self_attn.{module}.weight"), random.norm(HEAD_DIM));
        }
    }
    let mut config = with_sizes(
        json!({
            "architectures": ["LlamaForCausalLMEagle3"], "vocab_size": vocab_len, "num_hidden_layers": 1,
            "tie_word_embeddings": false, "draft_vocab_size": guessed.len(),
        }),
        hidden,
    );
    if target_hidden != hidden {
        config["target_hidden_size"] = json!(target_hidden);
    }
    config["norm_before_residual"] = json!(norm_before_residual);
    config["norm_before_fc"] = json!(kind.n_state_norms == 1);
    config["fc_norm"] = json!(kind.n_state_norms > 1);
    config["norm_output"] = json!(kind.norm_output);
    if let Some(taps) = taps {
        let outputs: Vec<i64> = taps.iter().map(|&n_layers| n_layers as i64 - 1).collect();
        config["eagle_config"] =
            json!({"eagle_aux_hidden_state_layer_ids": outputs, "use_aux_hidden_state": true});
    }
    if kind.is_qwen3 {
        config["transformer_layer_config"] = config.clone();
        config["transformer_layer_config"]["model_type"] = json!("qwen3");
        config["architectures"] = json!(["Eagle3Speculator"]);
    }
    let files = write(config, tensors);
    let checkpoint = opened(&files);
    (files, checkpoint)
}

/// Norm of one of the target's states.
pub(crate) fn state_norm(i: usize) -> String {
    format!("fc_norm.{i}.weight")
}

fn opened(files: &Files) -> Eagle3Checkpoint {
    Eagle3Checkpoint::find(files.folder.path()).unwrap().unwrap()
}

/// The same head with another tensor.
pub(crate) fn with_tensor(head: &Files, name: &str, tensor: Tensor) -> (Files, Eagle3Checkpoint) {
    let config = fs::read(head.folder.path().join("config.json")).unwrap();
    let mut tensors = head.tensors.clone();
    tensors.insert(name.to_owned(), tensor);
    let files = write(serde_json::from_slice(&config).unwrap(), tensors);
    let checkpoint = opened(&files);
    (files, checkpoint)
}

fn with_sizes(mut config: Value, hidden: usize) -> Value {
    let sizes = json!({
        "hidden_size": hidden, "num_attention_heads": N_HEADS, "num_key_value_heads": N_KV_HEADS,
        "head_dim": HEAD_DIM, "intermediate_size": INTERMEDIATE, "rms_norm_eps": EPS, "rope_theta": THETA,
        "max_position_embeddings": CONTEXT,
    });
    config.as_object_mut().unwrap().append(&mut sizes.as_object().unwrap().clone());
    config
}

/// * `n_in`: width of what query, key and value are projected from.
fn add_layer(tensors: &mut Tensors, layer: &str, hidden: usize, n_in: usize, random: &mut Random) {
    let (q, kv) = (N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM);
    for (module, n_out, n_in, gain) in [
        ("self_attn.q_proj", q, n_in, 2.0),
        ("self_attn.k_proj", kv, n_in, 2.0),
        ("self_attn.v_proj", kv, n_in, 1.0),
        ("self_attn.o_proj", hidden, q, 0.5),
        ("mlp.gate_proj", INTERMEDIATE, hidden, 1.0),
        ("mlp.up_proj", INTERMEDIATE, hidden, 1.0),
        ("mlp.down_proj", hidden, INTERMEDIATE, 0.5),
    ] {
        tensors.insert(format!("{layer}.{module}.weight"), random.matrix(n_out, n_in, gain));
    }
    for module in ["input_layernorm", "post_attention_layernorm"] {
        tensors.insert(format!("{layer}.{module}.weight"), random.norm(hidden));
    }
}

/// Weights in single precision; of a head also which tokens it guesses.
fn write(config: Value, tensors: Tensors) -> Files {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let floats = tensors.iter().map(|(name, (shape, values))| {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        (name.clone(), Dtype::F32, shape.clone(), bytes)
    });
    let mut all: Vec<_> = floats.collect();
    if config["draft_vocab_size"].is_number() {
        let vocab_len = config["vocab_size"].as_u64().unwrap() as usize;
        let guessed = guessed(vocab_len);
        let distances = guessed.iter().zip(0..).flat_map(|(&token, i)| (i64::from(token) - i).to_le_bytes());
        let flags = (0..vocab_len as u32).map(|token| u8::from(guessed.contains(&token)));
        all.push(("d2t".into(), Dtype::I64, vec![guessed.len()], distances.collect()));
        all.push(("t2d".into(), Dtype::BOOL, vec![vocab_len], flags.collect()));
    }
    let views = all.iter().map(|(name, dtype, shape, bytes)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    Files { folder, tensors }
}

/// A small generator (xorshift, Marsaglia 2003).
struct Random(u64);

impl Random {
    /// Uniform in `-1..1`.
    fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Keeps the size of inputs, times `gain`.
    fn matrix(&mut self, n_out: usize, n_in: usize, gain: f32) -> Tensor {
        let scale = gain * (3.0 / n_in as f32).sqrt();
        (vec![n_out, n_in], (0..n_out * n_in).map(|_| scale * self.unit()).collect())
    }

    fn norm(&mut self, len: usize) -> Tensor {
        (vec![len], (0..len).map(|_| 1.0 + 0.3 * self.unit()).collect())
    }
}
