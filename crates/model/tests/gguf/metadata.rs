//! Configurations as metadata of files, as converters of llama.cpp write them.

use std::f64::consts::TAU;

use dsde_checkpoint::Dtype;
use dsde_checkpoint::config::{Family, ModelConfig, RopeScaling};

use super::names::type_id;
use super::writer::{FLAG, I32, Writer, f32s};

pub(crate) fn write_metadata(writer: &mut Writer, config: &ModelConfig, has_mtp: bool) {
    let architecture = architecture(config.family);
    let rope = &config.ropes[0];
    let key = |name: &str| format!("{architecture}.{name}");
    writer
        .text("general.architecture", architecture)
        .u32(&key("block_count"), config.n_layers as u32 + u32::from(has_mtp))
        .u32(&key("context_length"), config.context_len_max)
        .u32(&key("embedding_length"), config.hidden as u32)
        .u32(&key("feed_forward_length"), config.intermediate as u32)
        .u32(&key("attention.head_count"), config.n_heads as u32)
        .u32(&key("attention.head_count_kv"), config.n_kv_heads as u32)
        .u32(&key("attention.key_length"), config.head_dim as u32)
        .u32(&key("attention.value_length"), config.head_dim as u32)
        .u32(&key("rope.dimension_count"), rope.rotary_dim as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), config.rms_eps)
        .f32(&key("rope.freq_base"), rope.theta as f32);
    if has_mtp {
        writer.u32(&key("nextn_predict_layers"), 1);
    }
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        writer.u32(&key("attention.sliding_window"), window);
    }
    if let Some(experts) = &config.experts {
        writer
            .u32(&key("expert_count"), experts.n_experts as u32)
            .u32(&key("expert_used_count"), experts.n_chosen as u32)
            .u32(&key("expert_feed_forward_length"), experts.intermediate as u32);
        if let Some(shared) = experts.shared {
            writer.u32(&key("expert_shared_feed_forward_length"), shared as u32);
        }
    }
    if let Some(delta) = &config.delta {
        writer
            .u32(&key("ssm.conv_kernel"), delta.conv_len as u32)
            .u32(&key("ssm.state_size"), delta.key_dim as u32)
            .u32(&key("ssm.group_count"), delta.n_key_heads as u32)
            .u32(&key("ssm.time_step_rank"), delta.n_value_heads as u32)
            .u32(&key("ssm.inner_size"), delta.values_width() as u32)
            .u32(&key("full_attention_interval"), 4);
    }
    write_own_metadata(writer, config, key);
    match &rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            writer.text(&key("rope.scaling.type"), "linear").f32(&key("rope.scaling.factor"), *factor as f32);
        }
        RopeScaling::Llama3 { .. } => {
            let factors = f32s(llama3_factors(config));
            writer.tensor("rope_freqs.weight", &[config.head_dim / 2], type_id(Dtype::F32), factors);
        }
        RopeScaling::Yarn { factor, original_context_len, .. } => {
            writer
                .text(&key("rope.scaling.type"), "yarn")
                .f32(&key("rope.scaling.factor"), *factor as f32)
                .u32(&key("rope.scaling.original_context_length"), *original_context_len);
        }
        RopeScaling::LongRope { short, long, original_context_len, attention_factor } => {
            writer
                .u32(&key("rope.scaling.original_context_length"), *original_context_len)
                .f32(&key("rope.scaling.attn_factor"), *attention_factor as f32);
            for (name, factors) in [("short", short), ("long", long)] {
                let name = format!("rope_factors_{name}.weight");
                writer.tensor(&name, &[factors.len()], type_id(Dtype::F32), f32s(factors.clone()));
            }
        }
        RopeScaling::Factors(_) | RopeScaling::Dynamic { .. } => unreachable!("no fixture has them"),
    }
}

/// Keys that one family has.
/// As files say it.
fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama | Family::Mistral | Family::Mixtral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Gemma2 => "gemma2",
        Family::Gemma3 => "gemma3",
        Family::Gemma4 => "gemma4",
        Family::Phi3 => "phi3",
        Family::SmolLm3 => "smollm3",
        Family::Granite => "granite",
        Family::Glm4 => "glm4",
        Family::Qwen3Moe => "qwen3moe",
        Family::Olmoe => "olmoe",
        Family::GptOss => "gpt-oss",
        Family::Qwen3_5 => "qwen35",
        Family::Qwen3_5Moe => "qwen35moe",
        Family::Qwen3Next => "qwen3next",
    }
}

fn write_own_metadata(writer: &mut Writer, config: &ModelConfig, key: impl Fn(&str) -> String) {
    match config.family {
        Family::Gemma2 => {
            writer
                .f32(&key("attn_logit_softcapping"), config.attention_soft_cap.unwrap())
                .f32(&key("final_logit_softcapping"), config.logit_soft_cap.unwrap());
        }
        Family::Gemma3 => {
            writer
                .u32(&key("attention.sliding_window_pattern"), 3)
                .f32(&key("rope.freq_base_swa"), config.ropes[1].theta as f32);
        }
        Family::Gemma4 => write_gemma4_metadata(writer, config, key),
        Family::Granite => {
            writer
                .f32(&key("embedding_scale"), config.embedding_scale)
                .f32(&key("residual_scale"), config.residual_scale)
                .f32(&key("attention.scale"), config.attention_scale)
                .f32(&key("logit_scale"), 1.0 / config.logit_scale);
        }
        Family::Qwen3_5Moe | Family::Qwen3Next => {
            let is_delta: Vec<u8> = config.layers.iter().map(|layer| u8::from(layer.is_delta)).collect();
            writer.array(&key("attention.recurrent_layers"), FLAG, is_delta.len() as u64, is_delta);
        }
        _ => {}
    }
}

/// Sizes that differ between layers, one number per layer, and divisors with which some pairs do not turn.
fn write_gemma4_metadata(writer: &mut Writer, config: &ModelConfig, key: impl Fn(&str) -> String) {
    let n_layers = config.n_layers;
    let mut array = |name: &str, type_id, elements: Vec<u8>| {
        writer.array(&key(name), type_id, n_layers as u64, elements);
    };
    let numbers = |number: &dyn Fn(usize) -> usize| -> Vec<u8> {
        (0..n_layers).flat_map(|layer| (number(layer) as i32).to_le_bytes()).collect()
    };
    array("attention.head_count_kv", I32, numbers(&|layer| config.kv_heads_of(layer).n_kv_heads));
    array("feed_forward_length", I32, numbers(&|layer| config.intermediate_of(layer)));
    let slide = config.layers.iter().map(|layer| u8::from(layer.window.is_some())).collect();
    array("attention.sliding_window_pattern", FLAG, slide);
    let n_sharing = config.layers.iter().filter(|layer| !layer.stores()).count();
    let [global, local] = [&config.ropes[0], &config.ropes[1]];
    for (name, len) in [
        ("attention.key_length", global.span),
        ("attention.value_length", global.span),
        ("attention.key_length_swa", config.head_dim),
        ("attention.value_length_swa", config.head_dim),
        ("rope.dimension_count", global.span),
        ("rope.dimension_count_swa", local.rotary_dim),
        ("attention.shared_kv_layers", n_sharing),
        ("embedding_length_per_layer_input", config.layer_inputs.map_or(0, |inputs| inputs.width)),
    ] {
        writer.u32(&key(name), len as u32);
    }
    writer.f32(&key("rope.freq_base_swa"), local.theta as f32);
    if let Some(cap) = config.logit_soft_cap {
        writer.f32(&key("final_logit_softcapping"), cap);
    }
    let factors = (0..global.span / 2).map(|pair| if 2 * pair < global.rotary_dim { 1.0 } else { 1e30 });
    writer.tensor("rope_freqs.weight", &[global.span / 2], type_id(Dtype::F32), f32s(factors));
}

/// Divisors of the frequencies, as converters compute them from wavelengths.
fn llama3_factors(config: &ModelConfig) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len } =
        config.ropes[0].scaling
    else {
        unreachable!("the caller has matched it");
    };
    let context_len = f64::from(original_context_len);
    let factor_of = |i: usize| {
        let wavelength = TAU * config.ropes[0].theta.powf(2.0 * i as f64 / config.head_dim as f64);
        if wavelength < context_len / high_freq_factor {
            1.0
        } else if wavelength > context_len / low_freq_factor {
            factor
        } else {
            let smooth = (context_len / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..config.head_dim / 2).map(|i| factor_of(i) as f32).collect()
}
