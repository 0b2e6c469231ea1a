//! Keys of Gemma 4, whose layers differ.

use dsde_checkpoint::config::{KvHeads, KvSource, LayerInputs, RopeScaling};

use super::models::{check_refused, config, counted, model_of};
use super::writer::{FLAG, I32, Writer, f32s};

const N_LAYERS: u32 = 4;

/// Two heads of 4 in layers with a window, and of 8 in the others, which are the second and the last.
fn model() -> Writer {
    let mut writer = model_of("gemma4");
    let key = |name: &str| format!("gemma4.{name}");
    for (name, n) in [
        ("block_count", N_LAYERS),
        ("attention.head_count", 2),
        ("attention.key_length", 8),
        ("attention.value_length", 8),
        ("attention.key_length_swa", 4),
        ("attention.value_length_swa", 4),
        ("attention.sliding_window", 9),
        ("rope.dimension_count", 8),
    ] {
        writer.u32(&key(name), n);
    }
    pattern(&mut writer, &[1, 0, 1, 0]);
    numbers(&mut writer, "attention.head_count_kv", &[2, 1, 2, 1]);
    writer.tensor("rope_freqs.weight", &[4], 0, f32s([1.0, 1e30, 1e30, 1e30]));
    writer
}

fn pattern(writer: &mut Writer, slide: &[u8]) {
    writer.array("gemma4.attention.sliding_window_pattern", FLAG, slide.len() as u64, slide);
}

fn numbers(writer: &mut Writer, name: &str, numbers: &[i32]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    writer.array(&format!("gemma4.{name}"), I32, numbers.len() as u64, bytes);
}

#[test]
fn layers_have_two_shapes() {
    let config = config(&model());
    let heads = |n_kv_heads, head_dim| KvHeads { n_kv_heads, head_dim };
    assert_eq!(
        [0, 1, 2, 3].map(|i| config.kv_heads_of(i)),
        [heads(2, 4), heads(1, 8), heads(2, 4), heads(1, 8)]
    );
    let windows: Vec<_> = config.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [Some(9), None, Some(9), None]);
    // The first layer alone has a tensor of values.
    let sources: Vec<_> = config.layers.iter().map(|layer| layer.kv).collect();
    assert_eq!(sources[..2], [KvSource::Projections, KvSource::KeysAsValues]);
    let [global, local] = config.ropes.as_slice() else { panic!("two rotary embeddings") };
    assert_eq!((global.rotary_dim, global.span, &global.scaling), (2, 8, &RopeScaling::None));
    assert_eq!((local.rotary_dim, local.span, local.theta), (4, 4, 1e4));
    // The root of the width, 4.
    assert_eq!((config.embedding_scale, config.attention_scale), (2.0, 1.0));
    assert_eq!((config.layer_inputs, config.has_layer_scale, config.logit_soft_cap), (None, false, None));
}

#[test]
fn layers_share_and_have_inputs_where_keys_say_so() {
    let mut writer = model();
    writer.u32("gemma4.attention.shared_kv_layers", 2).u32("gemma4.embedding_length_per_layer_input", 2);
    writer.f32("gemma4.final_logit_softcapping", 30.0).f32("gemma4.rope.freq_base_swa", 5e3);
    numbers(&mut writer, "feed_forward_length", &[2, 2, 4, 4]);
    counted(&mut writer, "per_layer_token_embd.weight", &[7, 8]);
    counted(&mut writer, "blk.0.layer_output_scale.weight", &[1]);
    let config = config(&writer);
    assert_eq!([2, 3].map(|i| config.layers[i].kv), [KvSource::Layer(0), KvSource::Layer(1)]);
    assert_eq!([0, 1, 2, 3].map(|i| config.intermediate_of(i)), [2, 2, 4, 4]);
    assert_eq!(config.layer_inputs, Some(LayerInputs { width: 2, n_embeddings: 7 }));
    assert_eq!(
        (config.logit_soft_cap, config.ropes[1].theta, config.has_layer_scale),
        (Some(30.0), 5e3, true)
    );
}

fn check(change: &dyn Fn(&mut Writer), expected: &str) {
    let mut writer = model();
    change(&mut writer);
    check_refused(&writer, expected);
}

#[test]
fn hostile_keys_are_refused_by_name() {
    let without = |key: &'static str| {
        move |writer: &mut Writer| {
            writer.without(key);
        }
    };
    for key in [
        "gemma4.attention.sliding_window_pattern",
        "gemma4.attention.sliding_window",
        "gemma4.attention.key_length_swa",
    ] {
        check(&without(key), key);
    }
    check(
        &|writer| pattern(writer, &[1, 0]),
        "gemma4.attention.sliding_window_pattern must be one for each of 4 layers, got 2",
    );
    check(
        &|writer| numbers(writer, "attention.head_count_kv", &[2, 1, 1, 1]),
        "layers of more than two shapes is not supported (gemma4.attention.head_count_kv: 2 and 1)",
    );
    check(
        &|writer| numbers(writer, "attention.head_count_kv", &[2, 1, 2]),
        "gemma4.attention.head_count_kv must be one for each of 4 layers, got 3",
    );
    for wrong in [0, 3, -1] {
        check(
            &|writer| numbers(writer, "attention.head_count_kv", &[2, wrong, 2, wrong]),
            &format!("gemma4.attention.head_count_kv must be a whole number from 1 to 2, got {wrong}"),
        );
    }
    check(
        &|writer| numbers(writer, "feed_forward_length", &[2, 2, 0, 2]),
        "gemma4.feed_forward_length must be a whole number from 1 to 1048576, got 0",
    );
    for (name, n, expected) in [
        ("attention.key_length_swa", 3, "must be even and at most 1024, got 3"),
        ("attention.value_length_swa", 2, "must be as many as gemma4.attention.key_length_swa (4), got 2"),
        ("attention.value_length", 4, "values of another length than keys is not supported"),
        ("attention.shared_kv_layers", 4, "must be a whole number from 0 to 3, got 4"),
        ("attention.shared_kv_layers", 3, "must be few enough for layers of both kinds"),
        ("rope.dimension_count_swa", 6, "must be a whole number from 2 to 4, got 6"),
        ("embedding_length_per_layer_input", 1 << 20, "must be a whole number from 0 to 16384"),
        ("expert_count", 4, "gemma4.expert_used_count"),
    ] {
        let change = |writer: &mut Writer| {
            writer.u32(&format!("gemma4.{name}"), n);
        };
        check(&change, expected);
    }
}

#[test]
fn tables_and_divisors_that_do_not_fit_are_refused() {
    // Inputs without a table, and one of fewer tokens than there are.
    let inputs = |writer: &mut Writer| {
        writer.u32("gemma4.embedding_length_per_layer_input", 2);
    };
    check(&inputs, "per_layer_token_embd.weight");
    check(
        &|writer| {
            inputs(writer);
            counted(writer, "per_layer_token_embd.weight", &[4, 8]);
        },
        "the rows of per_layer_token_embd.weight must be at least those of token_embd.weight (5), got 4",
    );
    // Divisors that stand still before others that turn, and such of other families.
    check(
        &|writer| {
            writer.tensors.retain(|tensor| tensor.name != "rope_freqs.weight");
            writer.tensor("rope_freqs.weight", &[4], 0, f32s([1.0, 1e30, 1.0, 1e30]));
        },
        "rope_freqs.weight must be numbers from 0.5 to 1000000.0, got 1e30",
    );
}
