//! Keys and tensors of architectures that differ from Llama.

use dsde_checkpoint::Error;
use dsde_checkpoint::RowOrder;
use dsde_checkpoint::config::{Activation, RopeScaling};

use super::models::{check_refused, config, counted, mixture, model_of, opened};
use super::writer::{FLAG, Writer, f32s};

/// `n_layers` instead of one.
fn with_layers(architecture: &str, n_layers: u32) -> Writer {
    let mut writer = model_of(architecture);
    writer.u32(&format!("{architecture}.block_count"), n_layers);
    writer
}

#[test]
fn gemma2_sees_a_window_in_every_other_layer() {
    let config = config(with_layers("gemma2", 4).u32("gemma2.attention.sliding_window", 9));
    let windows: Vec<_> = config.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [Some(9), None, Some(9), None]);
    assert_eq!((config.attention_soft_cap, config.logit_soft_cap), (Some(50.0), Some(30.0)));
    assert_eq!((config.embedding_scale, config.attention_scale, config.norm_offset), (2.0, 0.5, 0.0));
    assert_eq!(config.activation, Activation::GeluTanh);
}

#[test]
fn the_largest_gemma_scales_attention_by_its_width() {
    for (architecture, n_layers) in [("gemma2", 46), ("gemma3", 62)] {
        let key = |name: &str| format!("{architecture}.{name}");
        let scale = |n_layers: u32| {
            let mut writer = with_layers(architecture, n_layers);
            for (name, n) in [("head_count", 2), ("key_length", 16), ("head_count_kv", 1)] {
                writer.u32(&key(&format!("attention.{name}")), n);
            }
            config(&writer).attention_scale
        };
        // 4 / 2 = 2 elements of the width per head, 16 in a head.
        assert_eq!((scale(n_layers), scale(n_layers - 1)), (0.5_f32.sqrt(), 0.25), "{architecture}");
    }
}

#[test]
fn gemma3_turns_by_two_bases() {
    let mut writer = with_layers("gemma3", 7);
    writer.u32("gemma3.attention.sliding_window", 9).f32("gemma3.rope.freq_base", 1e6);
    let read = config(&writer);
    let layer = |i: usize| (read.layers[i].window, read.layers[i].rope);
    assert_eq!([4, 5, 6].map(layer), [(Some(9), Some(1)), (None, Some(0)), (Some(9), Some(1))]);
    assert_eq!([0, 1].map(|i| read.ropes[i].theta), [1e6, 1e4]);
    assert!(read.has_qk_norm && read.logit_soft_cap.is_none());
    writer.u32("gemma3.attention.sliding_window_pattern", 2).f32("gemma3.rope.freq_base_swa", 5e3);
    writer.f32("gemma3.final_logit_softcapping", 20.0);
    let read = config(&writer);
    assert_eq!([0, 1].map(|i| read.layers[i].window), [Some(9), None]);
    assert_eq!((read.ropes[1].theta, read.logit_soft_cap), (5e3, Some(20.0)));
    // Without a window all layers are alike.
    let read = config(&with_layers("gemma3", 7));
    assert!(read.layers.iter().all(|layer| (layer.window, layer.rope) == (None, Some(0))));
    check_refused(
        with_layers("gemma3", 7).u32("gemma3.attention.sliding_window_pattern", 0),
        "gemma3.attention.sliding_window_pattern must be a whole number from 1 to 512, got 0",
    );
    check_refused(
        with_layers("gemma3", 7).f32("gemma3.rope.freq_base_swa", f32::NAN),
        "gemma3.rope.freq_base_swa must be a number",
    );
}

#[test]
fn every_layer_of_llama_files_has_the_window() {
    let config = config(with_layers("llama", 2).u32("llama.attention.sliding_window", 9));
    assert_eq!(config.layers.iter().map(|layer| layer.window).collect::<Vec<_>>(), [Some(9); 2]);
    assert_eq!(config.context_len_max, 64);
}

#[test]
fn granite_has_multipliers_and_smollm3_layers_without_rotary_embedding() {
    let mut writer = model_of("granite");
    writer
        .f32("granite.embedding_scale", 12.0)
        .f32("granite.residual_scale", 0.25)
        .f32("granite.attention.scale", 0.125)
        .f32("granite.logit_scale", 8.0);
    let read = config(&writer);
    let scales = [read.embedding_scale, read.residual_scale, read.attention_scale, read.logit_scale];
    assert_eq!(scales, [12.0, 0.25, 0.125, 0.125]);
    check_refused(
        writer.f32("granite.residual_scale", f32::INFINITY),
        "granite.residual_scale must be a number",
    );
    let ropes: Vec<_> = config(&with_layers("smollm3", 5)).layers.iter().map(|layer| layer.rope).collect();
    assert_eq!(ropes, [Some(0), Some(0), Some(0), None, Some(0)]);
}

/// Phi-3 with heads of 4, of which 2 elements turn; a feed-forward layer of 2.
fn phi3() -> Writer {
    let mut writer = model_of("phi3");
    writer.tensors.retain(|tensor| {
        let name = &tensor.name;
        !["attn_q.", "attn_k.", "attn_v.", "ffn_gate.", "ffn_up."].iter().any(|part| name.contains(part))
    });
    writer.u32("phi3.rope.dimension_count", 2).u32("phi3.rope.scaling.original_context_length", 16);
    counted(&mut writer, "blk.0.attn_qkv.weight", &[12, 4]);
    counted(&mut writer, "blk.0.ffn_up.weight", &[4, 4]);
    writer
}

#[test]
fn fused_tensors_are_their_parts() {
    let checkpoint = opened(&phi3()).unwrap();
    let first = |name: &str, n_out: usize| {
        let mut row = [0.0; 4];
        let name = format!("model.layers.0.{name}.weight");
        checkpoint.matrix(&name, n_out, 4).unwrap().widen_row(0, &mut row);
        row[0]
    };
    // Rows of 4 elements, counted from 1.
    assert_eq!(
        ["q_proj", "k_proj", "v_proj"].map(|part| first(&format!("self_attn.{part}"), 4)),
        [1.0, 17.0, 33.0]
    );
    assert_eq!(["gate_proj", "up_proj"].map(|part| first(&format!("mlp.{part}"), 2)), [1.0, 9.0]);
    let mut writer = phi3();
    writer.tensors.retain(|tensor| !tensor.name.contains("attn_qkv"));
    counted(&mut writer, "blk.0.attn_qkv.weight", &[11, 4]);
    check_refused(&writer, "must have shape [12, 4], got [11, 4]");
}

#[test]
fn long_rope_has_two_lists_of_divisors() {
    let mut writer = phi3();
    assert_eq!(config(&writer).ropes[0].scaling, RopeScaling::None);
    writer.f32("phi3.rope.scaling.attn_factor", 1.25);
    writer.tensor("rope_factors_short.weight", &[1], 0, f32s([1.5]));
    writer.tensor("rope_factors_long.weight", &[1], 0, f32s([3.0]));
    let read = config(&writer);
    let expected = RopeScaling::LongRope {
        short: vec![1.5],
        long: vec![3.0],
        original_context_len: 16,
        attention_factor: 1.25,
    };
    assert_eq!((&read.ropes[0].scaling, read.ropes[0].rotary_dim), (&expected, 2));
    let mut writer = phi3();
    writer.tensor("rope_factors_short.weight", &[1], 0, f32s([1.5]));
    writer.tensor("rope_factors_long.weight", &[2], 0, f32s([3.0, 4.0]));
    check_refused(&writer, "tensor rope_factors_long.weight must have shape [1], got [2]");
    writer.tensors.retain(|tensor| tensor.name != "rope_factors_long.weight");
    writer.tensor("rope_factors_long.weight", &[1], 0, f32s([1e30]));
    check_refused(&writer, "rope_factors_long.weight must be numbers from 0.5 to 1000000.0, got 1e30");
}

#[test]
fn yarn_is_read_with_the_factor_that_comes_on_top() {
    let mut writer = model_of("qwen2");
    writer
        .text("qwen2.rope.scaling.type", "yarn")
        .f32("qwen2.rope.scaling.factor", 4.0)
        .u32("qwen2.rope.scaling.original_context_length", 32)
        .f32("qwen2.rope.scaling.attn_factor", 2.0);
    let RopeScaling::Yarn { factor, original_context_len, attention_factor, .. } =
        config(&writer).ropes[0].scaling
    else {
        panic!("a scaling by YaRN")
    };
    assert_eq!((factor, original_context_len), (4.0, 32));
    assert!((attention_factor - 2.0 * (1.0 + 0.1 * 4.0_f64.ln())).abs() < 1e-12, "{attention_factor}");
}

#[test]
fn glm4_turns_neighbours_in_a_part_of_each_head() {
    let mut writer = model_of("glm4");
    writer.tensors.retain(|tensor| !tensor.name.contains("ffn_gate") && !tensor.name.contains("ffn_up"));
    counted(&mut writer, "blk.0.ffn_up.weight", &[4, 4]);
    writer.u32("glm4.attention.key_length", 4).u32("glm4.rope.dimension_count", 2);
    let checkpoint = opened(&writer).unwrap();
    let matrix = checkpoint.matrix("model.layers.0.self_attn.q_proj.weight", 4, 4).unwrap();
    assert_eq!(matrix.order, RowOrder::Interleaved { head_dim: 4, span: 2 });
    assert!(checkpoint.matrix("model.layers.0.mlp.up_proj.weight", 2, 4).is_ok());
}

/// One layer of three experts with biases.
fn gpt_oss() -> Writer {
    let mut writer = mixture("gpt-oss");
    let norm = writer.tensors.iter_mut().find(|tensor| tensor.name == "blk.0.ffn_norm.weight").unwrap();
    norm.name = "blk.0.post_attention_norm.weight".into();
    for (name, shape) in [
        ("attn_q.bias", &[4][..]),
        ("attn_k.bias", &[4]),
        ("attn_v.bias", &[4]),
        ("attn_output.bias", &[4]),
        ("attn_sinks.weight", &[1]),
        ("ffn_gate_inp.bias", &[3]),
        ("ffn_gate_exps.bias", &[3, 2]),
        ("ffn_up_exps.bias", &[3, 2]),
        ("ffn_down_exps.bias", &[3, 4]),
    ] {
        counted(&mut writer, &format!("blk.0.{name}"), shape);
    }
    writer
}

#[test]
fn gpt_oss_has_sinks_and_biases_of_experts() {
    let checkpoint = opened(&gpt_oss()).unwrap();
    let read = checkpoint.config();
    assert_eq!((read.activation, read.has_sinks), (Activation::ClampedSwiGlu, true));
    assert!(read.has_qkv_bias && read.has_output_bias && read.experts.as_ref().unwrap().has_bias);
    assert_eq!(read.layers[0].window, Some(128));
    assert_eq!(checkpoint.vector("model.layers.0.self_attn.sinks", 1).unwrap(), [1.0]);
    assert_eq!(checkpoint.router_bias(0).unwrap().unwrap(), [1.0, 2.0, 3.0]);
    // Of each expert the two of the gate, then the two of up.
    let bias = checkpoint.experts(0).unwrap().bias.unwrap();
    assert_eq!(bias.gate_up, [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0, 6.0, 5.0, 6.0]);
    assert_eq!(bias.down[4..8], [5.0, 6.0, 7.0, 8.0]);
    assert_eq!(checkpoint.weight_bytes(), checkpoint.stored_bytes());
    let read = config(gpt_oss().u32("gpt-oss.block_count", 4).u32("gpt-oss.attention.sliding_window", 9));
    let windows: Vec<_> = read.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [Some(9), None, Some(9), None]);
}

/// As it was trained, which no key says.
#[test]
fn gpt_oss_mixes_frequencies_between_unrounded_pairs() {
    let mut writer = gpt_oss();
    writer
        .text("gpt-oss.rope.scaling.type", "yarn")
        .f32("gpt-oss.rope.scaling.factor", 32.0)
        .u32("gpt-oss.rope.scaling.original_context_length", 2);
    let scaling = config(&writer).ropes[0].scaling.clone();
    assert!(matches!(scaling, RopeScaling::Yarn { is_truncated: false, .. }), "{scaling:?}");
}

#[test]
fn broken_files_of_gpt_oss_are_refused() {
    for name in ["attn_sinks.weight", "ffn_up_exps.bias", "ffn_gate_inp.bias"] {
        let mut writer = gpt_oss();
        writer.tensors.retain(|tensor| tensor.name != format!("blk.0.{name}"));
        let loaded = opened(&writer).and_then(|checkpoint| {
            checkpoint.vector("model.layers.0.self_attn.sinks", 1)?;
            checkpoint.router_bias(0)?;
            checkpoint.experts(0).map(drop)
        });
        assert!(matches!(loaded, Err(Error::TensorMissing { .. })), "{name}: {loaded:?}");
    }
    let mut more = gpt_oss();
    counted(&mut more, "blk.0.ffn_norm.weight", &[4]);
    check_refused(&more, "the weights have blk.0.ffn_norm.weight, which the architecture does not declare");
    check_refused(mixture("gpt-oss").u32("gpt-oss.expert_used_count", 4), "expert_used_count must be");
    // Sinks of a model that has none.
    let mut sinks = model_of("qwen3");
    counted(&mut sinks, "blk.0.attn_sinks.weight", &[1]);
    check_refused(&sinks, "the weights have blk.0.attn_sinks.weight");
}

/// Qwen3.5 with what a file must say of delta layers.
fn hybrid() -> Writer {
    let mut writer = with_layers("qwen35", 4);
    for (name, n) in
        [("conv_kernel", 4), ("state_size", 8), ("group_count", 2), ("time_step_rank", 6), ("inner_size", 48)]
    {
        writer.u32(&format!("qwen35.ssm.{name}"), n);
    }
    writer
}

#[test]
fn hostile_delta_layers_are_refused() {
    for (name, value, expected) in [
        ("ssm.conv_kernel", 0, "qwen35.ssm.conv_kernel must be a whole number from 1 to 16, got 0"),
        ("ssm.conv_kernel", 1, "qwen35.ssm.conv_kernel must be a whole number from 2 to 16, got 1"),
        ("ssm.state_size", 1025, "qwen35.ssm.state_size must be a whole number from 1 to 1024, got 1025"),
        ("ssm.group_count", 0, "qwen35.ssm.group_count must be a whole number from 1 to 1024, got 0"),
        (
            "ssm.group_count",
            4,
            "qwen35.ssm.time_step_rank must be a multiple of qwen35.ssm.group_count (4), got 6",
        ),
        ("ssm.time_step_rank", u32::MAX, "qwen35.ssm.time_step_rank must be a whole number from 1 to 1024"),
        (
            "ssm.inner_size",
            49,
            "qwen35.ssm.inner_size must be a multiple of qwen35.ssm.time_step_rank (6), got 49",
        ),
        ("ssm.inner_size", u32::MAX, "qwen35.ssm.inner_size must be a whole number from 1 to 6144"),
        (
            "full_attention_interval",
            0,
            "qwen35.full_attention_interval must be a whole number from 1 to 512, got 0",
        ),
        ("full_attention_interval", 5, "must be at least one layer of attention, got none"),
        ("nextn_predict_layers", 4, "qwen35.nextn_predict_layers must be a whole number from 0 to 3, got 4"),
        ("nextn_predict_layers", 1, "must be at least one layer of attention, got none"),
    ] {
        check_refused(hybrid().u32(&format!("qwen35.{name}"), value), expected);
    }
    for name in ["conv_kernel", "state_size", "group_count", "time_step_rank", "inner_size"] {
        let key = format!("qwen35.ssm.{name}");
        check_refused(hybrid().without(&key), &format!("the metadata lack {key}"));
    }
    let listed = |flags: &[u8]| {
        let mut writer = hybrid();
        writer.array("qwen35.attention.recurrent_layers", FLAG, flags.len() as u64, flags);
        writer
    };
    check_refused(&listed(&[1, 1, 1]), "must be one for each of 4 layers, got 3");
    check_refused(&listed(&[1, 1, 1, 1]), "must be at least one layer of attention, got none");
    check_refused(
        hybrid().u32("qwen35.attention.recurrent_layers", 1),
        "qwen35.attention.recurrent_layers must be an array of truth values",
    );
}
