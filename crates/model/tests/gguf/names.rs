//! Names of tensors and numbers of their types in files of llama.cpp.

use dsde_checkpoint::Dtype;
use dsde_checkpoint::config::{Family, ModelConfig};

/// The layer of a tensor that holds queries, keys, values and gates of a delta layer.
pub(crate) fn fused_layer(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("model.layers.")?.strip_suffix(".linear_attn.in_proj_qkvz.weight")?;
    rest.parse().ok()
}

/// Tensors that are one with `name` in files of the family; `None` where another name stands for them all.
pub(crate) fn parts(family: Family, name: &str) -> Option<Vec<String>> {
    let fused: &[&[&str]] = match family {
        Family::Phi3 => &[&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"]],
        Family::Glm4 => &[&["gate_proj", "up_proj"]],
        _ => &[],
    };
    let found = fused.iter().find_map(|modules| {
        let module = modules.iter().find(|module| name.contains(*module))?;
        let all = modules.iter().map(|other| name.replace(module, other)).collect();
        Some((module == &modules[0], all))
    });
    match found {
        Some((is_first, all)) => is_first.then_some(all),
        None => Some(vec![name.to_string()]),
    }
}

pub(crate) fn gguf_name(config: &ModelConfig, name: &str) -> String {
    let behind = format!("blk.{}", config.n_layers);
    let of_head = [
        ("mtp.layers.0", behind.clone()),
        ("mtp.pre_fc_norm_embedding", format!("{behind}.nextn.enorm")),
        ("mtp.pre_fc_norm_hidden", format!("{behind}.nextn.hnorm")),
        ("mtp.fc", format!("{behind}.nextn.eh_proj")),
        ("mtp.norm", format!("{behind}.nextn.shared_head_norm")),
    ];
    let name = &of_head.iter().fold(name.to_string(), |name, (theirs, ours)| name.replace(theirs, ours));
    let replaced = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate.weight", "ffn_gate_inp.weight"),
        ("block_sparse_moe.gate.weight", "ffn_gate_inp.weight"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let all = of_family(config.family).iter().chain(&replaced);
    all.fold(name.to_string(), |name, (theirs, ours)| name.replace(theirs, ours))
}

/// What is called otherwise than in most families: their names and those of files.
fn of_family(family: Family) -> &'static [(&'static str, &'static str)] {
    match family {
        Family::Gemma2 | Family::Gemma3 => &[
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        Family::Gemma4 => &[
            ("model.embed_tokens_per_layer", "per_layer_token_embd"),
            ("model.per_layer_model_projection", "per_layer_model_proj"),
            ("model.per_layer_projection_norm", "per_layer_proj_norm"),
            ("post_per_layer_input_norm", "post_norm"),
            ("per_layer_input_gate", "inp_gate"),
            ("per_layer_projection", "proj"),
            ("layer_scalar", "layer_output_scale.weight"),
            ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
            ("router.proj", "ffn_gate_inp"),
            ("router.scale", "ffn_gate_inp.scale"),
            ("router.per_expert_scale", "ffn_down_exps.scale"),
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        Family::Glm4 => &[
            ("post_self_attn_layernorm", "post_attention_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("post_mlp_layernorm", "post_ffw_norm"),
            ("mlp.gate_proj", "ffn_up"),
        ],
        Family::GptOss => &[
            ("post_attention_layernorm", "post_attention_norm"),
            ("mlp.router", "ffn_gate_inp"),
            ("self_attn.sinks", "attn_sinks.weight"),
        ],
        Family::Qwen3_5 | Family::Qwen3_5Moe | Family::Qwen3Next => &[
            ("post_attention_layernorm", "post_attention_norm"),
            // As in files of the first weeks.
            ("linear_attn.in_proj_qkvz", "ssm_in"),
            ("linear_attn.in_proj_ba", "ssm_ba"),
            ("linear_attn.in_proj_qkv", "attn_qkv"),
            ("linear_attn.in_proj_z", "attn_gate"),
            ("linear_attn.in_proj_b", "ssm_beta"),
            ("linear_attn.in_proj_a", "ssm_alpha"),
            ("linear_attn.conv1d", "ssm_conv1d"),
            ("linear_attn.norm", "ssm_norm"),
            ("linear_attn.out_proj", "ssm_out"),
            ("linear_attn.A_log", "ssm_a"),
            ("linear_attn.dt_bias", "ssm_dt.bias"),
            ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
            ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
            ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
            ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
        ],
        Family::Phi3 => &[
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_qkv"),
            ("mlp.gate_proj", "ffn_up"),
        ],
        _ => &[("post_attention_layernorm", "ffn_norm")],
    }
}

pub(crate) fn type_id(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Q8_0 => 8,
        Dtype::Bf16 => 30,
        Dtype::Mxfp4 => 39,
        other => unreachable!("no fixture has {other:?}"),
    }
}
