//! Every fixture and the embedded pair open, with the tensors that their configurations imply.

use std::path::Path;

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::Dtype;
use dsde_checkpoint::embedded;

use super::fixtures::fixture;

/// Every tensor that the configuration implies is there in its shape, and no other.
fn check_complete(checkpoint: &Checkpoint, dtype: Dtype) {
    let config = checkpoint.config();
    let (q_len, kv_len) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    let (hidden, intermediate) = (config.hidden, config.intermediate);
    let mut expected = vec![
        ("model.embed_tokens.weight".to_string(), vec![config.vocab_len, hidden]),
        ("model.norm.weight".to_string(), vec![hidden]),
    ];
    if !config.tie_embeddings {
        expected.push(("lm_head.weight".to_string(), vec![config.vocab_len, hidden]));
    }
    let projections = [
        ("self_attn.q_proj", q_len, hidden, config.has_qkv_bias),
        ("self_attn.k_proj", kv_len, hidden, config.has_qkv_bias),
        ("self_attn.v_proj", kv_len, hidden, config.has_qkv_bias),
        ("self_attn.o_proj", hidden, q_len, config.has_output_bias),
        ("mlp.gate_proj", intermediate, hidden, config.has_mlp_bias),
        ("mlp.up_proj", intermediate, hidden, config.has_mlp_bias),
        ("mlp.down_proj", hidden, intermediate, config.has_mlp_bias),
    ];
    for layer in 0..config.n_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        for (part, n_out, n_in, has_bias) in projections {
            expected.push((name(part) + ".weight", vec![n_out, n_in]));
            if has_bias {
                expected.push((name(part) + ".bias", vec![n_out]));
            }
        }
        for norm in ["input_layernorm.weight", "post_attention_layernorm.weight"] {
            expected.push((name(norm), vec![hidden]));
        }
        if config.has_qk_norm {
            for norm in ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] {
                expected.push((name(norm), vec![config.head_dim]));
            }
        }
    }
    for (name, shape) in &expected {
        let tensor = checkpoint.tensor(name, shape).unwrap();
        assert_eq!(tensor.dtype, dtype, "{name}");
        assert!(tensor.to_f32().iter().all(|x| x.is_finite()), "{name}");
    }
    assert_eq!(checkpoint.tensor_names().count(), expected.len());
}

#[test]
fn fixtures_hold_what_their_configurations_imply() {
    let cases = [
        ("llama2", Dtype::F32),
        ("llama3", Dtype::Bf16),
        ("llama_linear", Dtype::F16),
        ("mistral", Dtype::Bf16),
        ("qwen2", Dtype::Bf16),
        ("qwen3", Dtype::Bf16),
    ];
    for (name, dtype) in cases {
        check_complete(&Checkpoint::open(&fixture(name)).unwrap(), dtype);
    }
}

#[test]
fn the_embedded_pair_is_complete_and_fits_together() {
    let (target, draft) = (embedded::target(), embedded::draft());
    check_complete(&target, Dtype::Bf16);
    check_complete(&draft, Dtype::Bf16);
    assert_eq!(target.config().context_len_max, draft.config().context_len_max);
}

#[test]
fn the_embedded_pair_has_the_sizes_that_its_page_states() {
    let n_parameters = |checkpoint: &Checkpoint| -> usize {
        let config = checkpoint.config();
        let attention = 2 * config.hidden * config.head_dim * (config.n_heads + config.n_kv_heads);
        let layer = attention + 3 * config.hidden * config.intermediate + 2 * config.hidden;
        config.vocab_len * config.hidden + config.n_layers * layer + config.hidden
    };
    let page = include_str!("../../../../models/README.md");
    for checkpoint in [embedded::target(), embedded::draft()] {
        let stated = n_parameters(&checkpoint).to_string();
        assert!(page.replace(' ', "").contains(&stated), "models/README.md must state {stated}");
    }
}

#[test]
fn both_embedded_models_have_the_same_text_files() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let read = |model: &str| std::fs::read(models.join(model).join(file)).unwrap();
        assert!(read("target") == read("draft"), "{file}");
    }
}
