//! Model folders as people have them: files of several tools and times beside each other, and clones without large files.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs;
use std::path::Path;

use dsde_checkpoint::Checkpoint;
use dsde_kernels::Reference;
use dsde_model::Llama;
use dsde_text::{ChatTemplate, Tokenizer};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
/// Sizes of the model below.
const VOCAB: usize = 4;
const HIDDEN: usize = 2;

/// Name, shape and elements of a tensor.
type Tensor = (String, Vec<usize>, Vec<f32>);

/// A model of one layer with tied embeddings.
fn tensors() -> Vec<Tensor> {
    let tensor = |name: &str, shape: &[usize]| {
        let len: usize = shape.iter().product();
        (name.to_owned(), shape.to_vec(), (0..len).map(|i| 0.25 * i as f32 - 0.5).collect())
    };
    let square = [HIDDEN, HIDDEN];
    let mut all =
        vec![tensor("model.embed_tokens.weight", &[VOCAB, HIDDEN]), tensor("model.norm.weight", &[HIDDEN])];
    for module in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"] {
        all.push(tensor(&format!("model.layers.0.{module}.weight"), &square));
    }
    for module in ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"] {
        all.push(tensor(&format!("model.layers.0.{module}.weight"), &square));
    }
    for module in ["input_layernorm", "post_attention_layernorm"] {
        all.push(tensor(&format!("model.layers.0.{module}.weight"), &[HIDDEN]));
    }
    all
}

fn write_tensors(path: &Path, tensors: &[Tensor]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., data)| data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// A folder with a configuration and these tensors.
fn folder(tensors: &[Tensor]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 1,
        "num_attention_heads": 1, "intermediate_size": HIDDEN, "rms_norm_eps": 1e-5, "max_position_embeddings": 8,
        "tie_word_embeddings": true,
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    write_tensors(&folder.path().join("model.safetensors"), tensors);
    folder
}

fn with(extra: Tensor) -> Vec<Tensor> {
    let mut all = tensors();
    all.push(extra);
    all
}

fn write_index(folder: &Path, weight_map: &Value) {
    let index = json!({"weight_map": weight_map}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

/// A shard with every tensor, and the index that names it.
fn write_shard(folder: &Path) {
    write_tensors(&folder.join("model-00001-of-00001.safetensors"), &tensors());
    let names = tensors().into_iter().map(|(name, ..)| (name, "model-00001-of-00001.safetensors".into()));
    write_index(folder, &Value::Object(names.collect()));
}

#[test]
fn a_stale_index_does_not_beat_a_complete_file() {
    for index in
        [json!({"model.norm.weight": "model-00001-of-00002.safetensors"}), json!({}), json!("broken")]
    {
        let folder = folder(&tensors());
        write_index(folder.path(), &index);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.tensor_names().count(), tensors().len(), "{index}");
        assert!(Llama::load(&Reference, &checkpoint, 8).is_ok(), "{index}");
    }
}

#[test]
fn complete_shards_beat_a_file_that_is_broken_or_incomplete() {
    for broken in ["", POINTER] {
        let folder = folder(&tensors());
        write_shard(folder.path());
        fs::write(folder.path().join("model.safetensors"), broken).unwrap();
        assert!(Llama::load(&Reference, &Checkpoint::open(folder.path()).unwrap(), 8).is_ok());
    }
    let folder = folder(&tensors()[..3]);
    write_shard(folder.path());
    assert!(Llama::load(&Reference, &Checkpoint::open(folder.path()).unwrap(), 8).is_ok());
}

#[test]
fn without_anything_complete_the_file_is_blamed() {
    let folder = folder(&tensors());
    write_index(folder.path(), &json!({"model.norm.weight": "gone.safetensors"}));
    fs::write(folder.path().join("model.safetensors"), "short").unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(dsde_checkpoint::Error::FileLen { .. })));
}

#[test]
fn pointers_of_git_lfs_are_called_so() {
    let check = |error: &dyn std::error::Error, file: &str| {
        let message = error.to_string();
        assert!(message.contains(&format!("{file} is a pointer of Git LFS")), "{message}");
        assert!(message.contains("git lfs pull"), "{message}");
    };
    for file in ["model.safetensors", "config.json"] {
        let folder = folder(&tensors());
        fs::write(folder.path().join(file), POINTER).unwrap();
        check(&Checkpoint::open(folder.path()).unwrap_err(), file);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), POINTER).unwrap();
    check(&Tokenizer::open(folder.path()).unwrap_err(), "tokenizer.json");
    fs::write(folder.path().join("tokenizer_config.json"), POINTER).unwrap();
    check(&ChatTemplate::open(folder.path()).unwrap_err(), "tokenizer_config.json");
}

#[test]
fn an_output_projection_of_its_own_is_used_although_the_configuration_ties_it() {
    let table = tensors()[0].2.clone();
    let own = |data| with(("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN], data));
    let equal = folder(&own(table.clone()));
    assert!(Checkpoint::open(equal.path()).unwrap().config().tie_embeddings);
    let other = folder(&own(table.iter().map(|x| x + 1.0).collect()));
    let checkpoint = Checkpoint::open(other.path()).unwrap();
    assert!(!checkpoint.config().tie_embeddings);
    let head = checkpoint.output_projection().unwrap();
    assert_eq!(head.bytes[..4], (table[0] + 1.0).to_le_bytes());
}

#[test]
fn tensors_that_would_change_the_output_are_refused_by_name() {
    let tensor = |name: &str, x: f32| (name.to_owned(), vec![HIDDEN], vec![x; HIDDEN]);
    for (name, x) in [
        ("model.layers.0.self_attn.q_proj.bias", 0.5),
        ("model.layers.0.mlp.down_proj.bias", -1.0),
        ("model.layers.0.self_attn.q_norm.weight", 1.0),
        ("model.layers.0.post_feedforward_layernorm.weight", 1.0),
        ("model.norm.bias", 0.1),
        ("lm_head.bias", 0.1),
    ] {
        let error = Checkpoint::open(folder(&with(tensor(name, x))).path()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("the weights have {name}, which config.json does not declare"))
        );
    }
    for (name, x) in [
        // Tools that quantise write biases of 0; the angles follow from the configuration; other parts do not run.
        ("model.layers.0.self_attn.q_proj.bias", 0.0),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", 1.0),
        ("model.layers.1.self_attn.q_proj.bias", 0.5),
        ("vision_tower.norm.weight", 0.5),
    ] {
        assert!(Checkpoint::open(folder(&with(tensor(name, x))).path()).is_ok(), "{name}");
    }
}
