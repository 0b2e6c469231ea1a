//! Configurations and tensors of models in GGUF files.

use dsde_checkpoint::config::{Family, ModelConfig, Rope, RopeScaling, SamplingDefaults};
use dsde_checkpoint::{Checkpoint, Error, RowOrder};

use super::writer::{self, Writer, array, f32s, text};
use super::written;

const VOCAB: usize = 5;
const HIDDEN: usize = 4;
const INTERMEDIATE: usize = 2;

/// Architecture `llama`: one layer, one head of 4.
pub(crate) fn model() -> Writer {
    model_of("llama")
}

pub(crate) fn model_of(architecture: &str) -> Writer {
    let mut writer = Writer::default();
    let key = |name: &str| format!("{architecture}.{name}");
    writer
        .text("general.architecture", architecture)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), HIDDEN as u32)
        .u32(&key("feed_forward_length"), INTERMEDIATE as u32)
        .u32(&key("attention.head_count"), 1)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    for (name, shape) in [
        ("token_embd.weight", &[VOCAB, HIDDEN][..]),
        ("output_norm.weight", &[HIDDEN]),
        ("output.weight", &[VOCAB, HIDDEN]),
        ("blk.0.attn_norm.weight", &[HIDDEN]),
        ("blk.0.attn_q.weight", &[HIDDEN, HIDDEN]),
        ("blk.0.attn_k.weight", &[HIDDEN, HIDDEN]),
        ("blk.0.attn_v.weight", &[HIDDEN, HIDDEN]),
        ("blk.0.attn_output.weight", &[HIDDEN, HIDDEN]),
        ("blk.0.ffn_norm.weight", &[HIDDEN]),
        ("blk.0.ffn_gate.weight", &[INTERMEDIATE, HIDDEN]),
        ("blk.0.ffn_up.weight", &[INTERMEDIATE, HIDDEN]),
        ("blk.0.ffn_down.weight", &[HIDDEN, INTERMEDIATE]),
    ] {
        counted(&mut writer, name, shape);
    }
    writer
}

/// A tensor of 1, 2, 3, ...
pub(crate) fn counted(writer: &mut Writer, name: &str, shape: &[usize]) {
    let len: usize = shape.iter().product();
    writer.tensor(name, shape, 0, f32s((1..=len).map(|i| i as f32)));
}

pub(crate) fn opened(writer: &Writer) -> Result<Checkpoint, Error> {
    let (_folder, path) = written(&writer.bytes());
    Checkpoint::open(&path)
}

pub(crate) fn config(writer: &Writer) -> ModelConfig {
    opened(writer).unwrap().config().clone()
}

pub(crate) fn check_refused(writer: &Writer, expected: &str) {
    let message = opened(writer).expect_err(expected).to_string();
    assert!(message.contains(expected), "expected {expected:?}, got {message:?}");
}

#[test]
fn absent_keys_have_their_defaults() {
    let checkpoint = opened(&model()).unwrap();
    let config = checkpoint.config();
    assert_eq!((config.family, config.n_layers), (Family::Llama, 1));
    assert_eq!((config.vocab_len, config.n_embeddings, config.hidden), (VOCAB, VOCAB, HIDDEN));
    assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim), (1, 1, 4));
    assert_eq!((config.intermediate, config.context_len_max, config.rms_eps), (INTERMEDIATE, 64, 1e-5));
    assert_eq!(config.ropes, [Rope { theta: 10_000.0, scaling: RopeScaling::None, rotary_dim: 4, span: 4 }]);
    assert!(!config.tie_embeddings && !config.has_qkv_bias && !config.has_output_bias);
    assert!(!config.has_mlp_bias && !config.has_qk_norm);
    assert_eq!((config.eos_tokens.as_slice(), config.bos_token), (&[][..], None));
    assert_eq!(config.sampling, SamplingDefaults::default());
    assert_eq!(checkpoint.gguf().unwrap().text("general.architecture").unwrap(), Some("llama"));
}

#[test]
fn keys_are_read() {
    let mut writer = model_of("qwen3");
    writer
        .u32("qwen3.attention.head_count", 2)
        .array("qwen3.attention.head_count_kv", writer::I32, 2, [2, 0, 0, 0, 2, 0, 0, 0])
        .u32("qwen3.attention.key_length", 6)
        .u32("qwen3.attention.value_length", 6)
        .u32("qwen3.rope.dimension_count", 6)
        .f32("qwen3.rope.freq_base", 1e6)
        .text("qwen3.rope.scaling.type", "linear")
        .f32("qwen3.rope.scaling.factor", 4.0)
        .u32("qwen3.attention.sliding_window", 48)
        .u32("qwen3.expert_count", 0)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.eot_token_id", 3)
        .u32("tokenizer.ggml.eom_token_id", 2)
        .f32("general.sampling.temp", 0.5)
        .value("general.sampling.top_k", writer::I32, 20i32.to_le_bytes());
    let config = config(&writer);
    assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim), (2, 2, 6));
    let scaling = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(config.ropes, [Rope { theta: 1e6, scaling, rotary_dim: 6, span: 6 }]);
    assert_eq!(config.context_len_max, 48);
    assert_eq!((config.bos_token, config.eos_tokens.as_slice()), (Some(1), &[2, 3][..]));
    let sampling =
        SamplingDefaults { temperature: Some(0.5), top_k: Some(20), ..SamplingDefaults::default() };
    assert_eq!(config.sampling, sampling);
}

#[test]
fn control_tokens_that_end_a_text_are_known_by_it() {
    let texts = ["<|im_end|>", "<|eot_id|>", "a", "<|endoftext|>"].map(text).concat();
    let mut writer = model();
    writer
        .array("tokenizer.ggml.tokens", writer::TEXT, 4, texts)
        .array("tokenizer.ggml.token_type", writer::I32, 4, [3, 1, 3, 3].map(i32::to_le_bytes).concat())
        .u32("tokenizer.ggml.eos_token_id", 3);
    // The second is an ordinary text.
    assert_eq!(config(&writer).eos_tokens, [3, 0]);
}

/// `<|end|>` ends a text of Phi-3, and one of several messages where calls end otherwise.
#[test]
fn ends_of_messages_are_no_ends_of_texts() {
    for (other, expected) in [("<|assistant|>", vec![0, 2]), ("<|call|>", vec![2, 1])] {
        let texts = ["<|end|>", other, "<|return|>"].map(text).concat();
        let mut writer = model();
        writer.array("tokenizer.ggml.tokens", writer::TEXT, 3, texts).array(
            "tokenizer.ggml.token_type",
            writer::I32,
            3,
            [3, 3, 3].map(i32::to_le_bytes).concat(),
        );
        if other == "<|call|>" {
            writer.u32("tokenizer.ggml.eos_token_id", 2);
        }
        assert_eq!(config(&writer).eos_tokens, expected, "{other}");
    }
}

#[test]
fn wrong_beginnings_do_no_harm_and_wrong_ends_are_refused() {
    assert_eq!(config(model().u32("tokenizer.ggml.bos_token_id", 5)).bos_token, None);
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        let key = format!("tokenizer.ggml.{key}");
        check_refused(model().u32(&key, 5), &format!("{key} must be token ids below 5, got 5"));
    }
}

#[test]
fn missing_keys_are_named() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        check_refused(model().without(key), &format!("the metadata lack {key}"));
    }
    let mut writer = model();
    writer.tensors.clear();
    check_refused(&writer, "the weights lack tensor token_embd.weight");
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let number = |name: &str, value: f32| {
        let mut writer = model();
        writer.f32(&format!("llama.{name}"), value);
        writer
    };
    check_refused(
        &model_of("gemma"),
        "architecture gemma is not supported; supported are llama, qwen2, qwen3, gemma2, gemma3, gemma4, phi3, smollm3, granite, glm4, \
         qwen3moe, olmoe",
    );
    check_refused(
        model_of("qwen2").u32("qwen2.expert_count", 8),
        "a mixture of experts is not supported (qwen2.expert_count: 8); use a dense model of the family",
    );
    check_refused(
        model().text("llama.rope.scaling.type", "mrope"),
        "rotary scaling other than linear, yarn and by factors is not supported (llama.rope.scaling.type: mrope)",
    );
    check_refused(model().u32("llama.rope.dimension_count", 2), "a rotary embedding of a part of each head");
    check_refused(model().u32("llama.attention.value_length", 2), "values of another length than keys");
    check_refused(&number("attention.scale", 0.25), "another scale of attention");
    check_refused(&number("logit_scale", 0.5), "a multiplier");
    check_refused(&number("attn_logit_softcapping", 50.0), "soft-capping");
    check_refused(model().value("llama.attention.causal", writer::FLAG, [0]), "attention to later tokens");
    let lens = [2u32, 3].map(u32::to_le_bytes).concat();
    check_refused(
        model().array("llama.feed_forward_length", writer::U32, 2, lens),
        "layers of different shapes is not supported (llama.feed_forward_length: 2 and 3)",
    );
    // Values that change nothing.
    assert!(opened(&number("attention.scale", 0.5)).is_ok());
    assert!(opened(&number("logit_scale", 1.0)).is_ok());
    assert!(opened(model().value("llama.attention.causal", writer::FLAG, [1])).is_ok());
    assert!(opened(model().text("llama.rope.scaling.type", "none")).is_ok());
}

#[test]
fn sizes_out_of_range_are_refused() {
    for (name, value, expected) in [
        ("block_count", 0, "llama.block_count must be a whole number from 1 to 512, got 0"),
        ("block_count", u32::MAX, "from 1 to 512, got 4294967295"),
        ("embedding_length", 1 << 20, "llama.embedding_length must be a whole number from 1 to 65536"),
        ("feed_forward_length", u32::MAX, "from 1 to 1048576"),
        ("attention.head_count", 0, "from 1 to 1024, got 0"),
        ("attention.head_count", 3, "the metadata lack llama.attention.key_length"),
        ("attention.head_count_kv", 2, "from 1 to 1, got 2"),
        ("attention.key_length", 3, "llama.attention.key_length must be even and at most 1024, got 3"),
        ("attention.key_length", 2048, "from 2 to 1024, got 2048"),
        ("context_length", 0, "from 1 to 16777216, got 0"),
    ] {
        check_refused(model().u32(&format!("llama.{name}"), value), expected);
    }
    let divisor = "llama.attention.head_count_kv must be a divisor of llama.attention.head_count (4), got 3";
    check_refused(
        model()
            .u32("llama.attention.head_count", 4)
            .u32("llama.attention.key_length", 4)
            .u32("llama.attention.head_count_kv", 3),
        divisor,
    );
    check_refused(
        model().array("llama.attention.head_count", writer::U32, 0, []),
        "from 1 to 1024, got nothing",
    );
    for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        check_refused(model().f32("llama.attention.layer_norm_rms_epsilon", eps), "must be a number from");
    }
    check_refused(model().f32("llama.rope.freq_base", f32::NAN), "llama.rope.freq_base must be a number");
}

#[test]
fn tensors_have_the_names_of_folders() {
    let mut writer = model_of("qwen3");
    writer.tensors.retain(|tensor| tensor.name != "output.weight");
    for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
        counted(&mut writer, &format!("blk.0.{name}.bias"), &[HIDDEN]);
    }
    for name in ["attn_q_norm", "attn_k_norm"] {
        counted(&mut writer, &format!("blk.0.{name}.weight"), &[HIDDEN]);
    }
    counted(&mut writer, "blk.0.ffn_gate.bias", &[INTERMEDIATE]);
    counted(&mut writer, "blk.0.ffn_up.bias", &[INTERMEDIATE]);
    counted(&mut writer, "blk.0.ffn_down.bias", &[HIDDEN]);
    let checkpoint = opened(&writer).unwrap();
    let config = checkpoint.config();
    assert!(config.tie_embeddings && config.has_qkv_bias && config.has_output_bias);
    assert!(config.has_mlp_bias && config.has_qk_norm);
    for (name, shape) in [
        ("model.embed_tokens.weight", &[VOCAB, HIDDEN][..]),
        ("model.norm.weight", &[HIDDEN]),
        ("model.layers.0.input_layernorm.weight", &[HIDDEN]),
        ("model.layers.0.post_attention_layernorm.weight", &[HIDDEN]),
        ("model.layers.0.self_attn.q_proj.weight", &[HIDDEN, HIDDEN]),
        ("model.layers.0.self_attn.q_proj.bias", &[HIDDEN]),
        ("model.layers.0.self_attn.o_proj.bias", &[HIDDEN]),
        ("model.layers.0.self_attn.k_norm.weight", &[HIDDEN]),
        ("model.layers.0.mlp.gate_proj.weight", &[INTERMEDIATE, HIDDEN]),
        ("model.layers.0.mlp.down_proj.weight", &[HIDDEN, INTERMEDIATE]),
        ("model.layers.0.mlp.down_proj.bias", &[HIDDEN]),
    ] {
        let values: Vec<f32> = (1..=shape.iter().product()).map(|i: usize| i as f32).collect();
        assert_eq!(checkpoint.tensor(name, shape).unwrap().to_f32(), values, "{name}");
    }
    assert_eq!(checkpoint.tensor_names().count(), writer.tensors.len());
    assert_eq!(checkpoint.matrix("lm_head.weight", VOCAB, HIDDEN).map(drop).map_err(|e| e.to_string()), {
        Err("the weights lack tensor lm_head.weight".to_string())
    });
    assert_eq!(checkpoint.output_projection().unwrap().order, RowOrder::AsIs);
}

#[test]
fn queries_and_keys_of_llama_are_put_back_into_order() {
    let mut writer = model();
    for part in ["q", "k", "v"] {
        counted(&mut writer, &format!("blk.0.attn_{part}.bias"), &[HIDDEN]);
    }
    let checkpoint = opened(&writer).unwrap();
    let name = |part: &str| format!("model.layers.0.self_attn.{part}");
    // Stored rows 0, 1, 2, 3 are rows 0, 2, 1, 3: neighbours turn together in the file, halves here.
    for part in ["q_proj", "k_proj"] {
        assert_eq!(
            checkpoint.vector(&name(part).replace("proj", "proj.bias"), 4).unwrap(),
            [1.0, 3.0, 2.0, 4.0]
        );
        let matrix = checkpoint.matrix(&name(part).replace("proj", "proj.weight"), 4, 4).unwrap();
        let mut row = [0.0; 4];
        matrix.widen_row(1, &mut row);
        assert_eq!(row, [9.0, 10.0, 11.0, 12.0], "{part}");
    }
    assert_eq!(checkpoint.vector(&name("v_proj.bias"), 4).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    for part in ["v_proj.weight", "o_proj.weight"] {
        assert_eq!(checkpoint.matrix(&name(part), 4, 4).unwrap().order, RowOrder::AsIs, "{part}");
    }
    let qwen = opened(&model_of("qwen2")).unwrap();
    assert_eq!(qwen.matrix(&name("q_proj.weight"), 4, 4).unwrap().order, RowOrder::AsIs);
}

#[test]
fn frequencies_may_have_factors() {
    let mut writer = model();
    writer.tensor("rope_freqs.weight", &[2], 0, f32s([1.0, 8.0]));
    assert_eq!(config(&writer).ropes[0].scaling, RopeScaling::Factors(vec![1.0, 8.0]));
    let with = |factors: Vec<f32>| {
        let mut writer = model();
        writer.tensor("rope_freqs.weight", &[factors.len()], 0, f32s(factors));
        writer
    };
    // A pair that stands still keeps its place.
    let standing = opened(&with(vec![1.0, 1e30])).unwrap();
    assert_eq!((standing.config().ropes[0].rotary_dim, standing.config().ropes[0].span), (2, 4));
    let queries = standing.matrix("model.layers.0.self_attn.q_proj.weight", 4, 4).unwrap();
    assert_eq!(queries.order, RowOrder::Interleaved { head_dim: 4, span: 4 });
    check_refused(&with(vec![1.0]), "tensor rope_freqs.weight must have shape [2], got [1]");
    for factor in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        check_refused(&with(vec![1.0, factor]), "rope_freqs.weight must be numbers from 0.5 to 1000000.0");
    }
    check_refused(with(vec![1.0, 2.0]).f32("llama.rope.scaling.factor", 2.0), "scaled twice");
}

#[test]
fn tensors_that_nothing_declares_are_refused() {
    for name in [
        "blk.0.attn_q_norm.weight",
        "blk.0.attn_norm.bias",
        "blk.0.ffn_gate_inp.weight",
        "blk.0.attn_q.scale",
        "blk.00.attn_q.weight",
        "blk.attn_q.weight",
        "token_embd_norm.weight",
        "model.embed_tokens.weight",
        "weight",
    ] {
        let mut writer = model();
        counted(&mut writer, name, &[HIDDEN]);
        let error = opened(&writer).expect_err(name);
        assert!(matches!(error, Error::TensorUndeclared { .. }), "{name}: {error}");
        assert!(error.to_string().contains("which the architecture does not declare"), "{error}");
    }
    for name in ["blk.1.attn_norm.weight", "blk.1.nextn.eh_proj.weight", "blk.0.attn_rot_embd.weight"] {
        let mut writer = model();
        counted(&mut writer, name, &[HIDDEN]);
        assert!(opened(&writer).is_ok(), "{name}");
    }
}

#[test]
fn versions_2_and_3_in_little_endian_are_read() {
    assert!(opened(&Writer { version: 2, ..model() }).is_ok());
    let of = |version| format!("the version of the format must be 2 or 3 in little endian, got {version}");
    check_refused(&Writer { version: 1, ..model() }, &of("1"));
    check_refused(&Writer { version: 4, ..model() }, &of("4"));
    check_refused(&Writer { version: 3u32.swap_bytes(), ..model() }, &of("big endian"));
}

#[test]
fn element_types_are_named() {
    for (type_id, name) in
        [(15, "Q8_K"), (16, "IQ2_XXS"), (34, "TQ1_0"), (40, "NVFP4"), (26, "I32"), (99, "type 99")]
    {
        let mut writer = model();
        writer.tensors[4].type_id = type_id;
        check_refused(&writer, "tensor blk.0.attn_q.weight must be one of");
        check_refused(&writer, &format!("got {name}; convert the weights"));
    }
}

#[test]
fn other_alignments_are_honoured() {
    for alignment in [1, 8, 4096] {
        let mut writer = Writer { alignment, ..model() };
        writer.u32("general.alignment", alignment as u32);
        let checkpoint = opened(&writer).unwrap();
        assert_eq!(checkpoint.vector("model.norm.weight", 4).unwrap(), [1.0, 2.0, 3.0, 4.0], "{alignment}");
    }
}

#[test]
fn nested_arrays_do_not_disturb_what_follows() {
    let inner = array(writer::TEXT, 1, text("a"));
    let mut writer = model();
    writer.array("general.nested", writer::ARRAY, 1, &inner).u32("tokenizer.ggml.eos_token_id", 4);
    assert_eq!(config(&writer).eos_tokens, [4]);
}

/// A model of three experts, two of them per token.
pub(crate) fn mixture(architecture: &str) -> Writer {
    let mut writer = model_of(architecture);
    for part in ["gate", "up", "down"] {
        writer.tensors.retain(|tensor| tensor.name != format!("blk.0.ffn_{part}.weight"));
    }
    writer
        .u32(&format!("{architecture}.expert_count"), 3)
        .u32(&format!("{architecture}.expert_used_count"), 2);
    counted(&mut writer, "blk.0.ffn_gate_inp.weight", &[3, HIDDEN]);
    counted(&mut writer, "blk.0.ffn_gate_exps.weight", &[3, INTERMEDIATE, HIDDEN]);
    counted(&mut writer, "blk.0.ffn_up_exps.weight", &[3, INTERMEDIATE, HIDDEN]);
    counted(&mut writer, "blk.0.ffn_down_exps.weight", &[3, HIDDEN, INTERMEDIATE]);
    writer
}

#[test]
fn experts_of_every_architecture_are_read() {
    for (architecture, family, is_renormalised) in [
        ("llama", Family::Mixtral, true),
        ("qwen3moe", Family::Qwen3Moe, true),
        ("olmoe", Family::Olmoe, false),
    ] {
        let checkpoint = opened(&mixture(architecture)).unwrap();
        let config = checkpoint.config();
        let experts = config.experts_of(0).unwrap();
        assert_eq!((config.family, experts.is_renormalised), (family, is_renormalised));
        assert_eq!([experts.n_experts, experts.n_chosen, experts.intermediate], [3, 2, INTERMEDIATE]);
        // The second expert's elements follow the 8 of the first.
        let experts = checkpoint.experts(0).unwrap();
        let expert = experts.iter().nth(1).unwrap();
        for matrix in [expert.gate, expert.up, expert.down] {
            let mut row = vec![0.0; matrix.n_in];
            matrix.widen_row(0, &mut row);
            let expected: Vec<f32> = (9..9 + matrix.n_in as u32).map(|i| i as f32).collect();
            assert_eq!(row, expected, "{architecture}");
        }
        assert_eq!(checkpoint.router(0).unwrap().n_out, 3);
    }
    let mut own = mixture("qwen3moe");
    own.u32("qwen3moe.feed_forward_length", 77)
        .u32("qwen3moe.expert_feed_forward_length", INTERMEDIATE as u32)
        .u32("qwen3moe.expert_gating_func", 1)
        .u32("qwen3moe.expert_shared_count", 0);
    assert_eq!(config(&own).experts.unwrap().intermediate, INTERMEDIATE);
}

#[test]
fn hostile_experts_are_refused() {
    for (name, value, expected) in [
        ("expert_used_count", 4, "qwen3moe.expert_used_count must be a whole number from 1 to 3, got 4"),
        ("expert_used_count", 0, "qwen3moe.expert_used_count must be a whole number from 1 to 3, got 0"),
        ("expert_count", 0, "qwen3moe.expert_count must be a whole number from 1 to 4096, got 0"),
        ("expert_count", u32::MAX, "qwen3moe.expert_count must be a whole number from 1 to 4096"),
        ("expert_count", 4, "must have shape [4,"),
        ("expert_feed_forward_length", 0, "from 1 to 1048576, got 0"),
        ("expert_feed_forward_length", 3, "must have shape [3,"),
        (
            "expert_shared_count",
            1,
            "another kind of experts is not supported (qwen3moe.expert_shared_count: 1)",
        ),
        (
            "expert_gating_func",
            2,
            "another kind of experts is not supported (qwen3moe.expert_gating_func: 2)",
        ),
        (
            "expert_group_count",
            4,
            "another kind of experts is not supported (qwen3moe.expert_group_count: 4)",
        ),
    ] {
        let key = format!("qwen3moe.{name}");
        check_refused(mixture("qwen3moe").without(&key).u32(&key, value), expected);
    }
    check_refused(
        mixture("qwen3moe").without("qwen3moe.expert_used_count"),
        "the metadata lack qwen3moe.expert_used_count",
    );
    let mut shared = mixture("qwen3moe");
    counted(&mut shared, "blk.0.ffn_up_shexp.weight", &[INTERMEDIATE, HIDDEN]);
    check_refused(
        &shared,
        "the weights have blk.0.ffn_up_shexp.weight, which the architecture does not declare",
    );
    // Experts of a model that has none.
    let mut dense = model_of("qwen3");
    counted(&mut dense, "blk.0.ffn_up_exps.weight", &[3, INTERMEDIATE, HIDDEN]);
    check_refused(&dense, "the weights have blk.0.ffn_up_exps.weight");
}
