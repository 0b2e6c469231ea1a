"""The tiny checkpoints: a configuration of every family, in which everything that is special matters."""

from dataclasses import dataclass

import torch

# Shared by all; a family overrides what makes it special.
BASE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


# Of those that show one thing: as small as that needs.
SMALL = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "head_dim": 8,
    "intermediate_size": 24,
}

# Sinks, a window shorter than the prompt, an original context with which it matters that YaRN rounds no pairs.
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 32,
    "head_dim": 16,
    "intermediate_size": 32,
    "num_local_experts": 6,
    "num_experts_per_tok": 3,
    "sliding_window": 12,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 8.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 64,
    },
    "swiglu_limit": 7.0,
}


# Heads of values that share heads of queries and keys, a quarter of each head of attention turned, the rotary fields as published.
QWEN3_5 = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,
    "rope_theta": None,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 100000.0,
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [1, 1, 0],
    },
    "attention_bias": False,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


# Layers that see everything have heads of their own, a quarter of whose pairs turn; the last layer is one of them.
GEMMA4 = SMALL | {
    "architectures": ["Gemma4ForCausalLM"],
    "model_type": "gemma4_text",
    "hidden_act": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "global_head_dim": 16,
    "sliding_window": 10,
    "rope_theta": None,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 100000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
    },
    "tie_word_embeddings": None,
    "hidden_size_per_layer_input": 0,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Case:
    """One folder of the fixtures."""

    name: str
    config: dict
    dtype: torch.dtype
    generation: dict | None = None
    n_shards: int = 1
    norm_offset: float = 0.0
    """What the architecture adds to stored weights of norms."""
    is_mxfp4: bool = False
    """Whether experts are in MXFP4."""
    has_mtp: bool = False
    """Whether the model brings a head that predicts a token further."""


CASES = [
    # As many key/value heads as query heads, no num_key_value_heads in the file, three layers.
    Case(
        "llama2",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": None,
            "num_hidden_layers": 3,
            "intermediate_size": 64,
        },
        torch.float32,
    ),
    # Frequencies of all three zones: the original context is shorter than the prompt.
    Case(
        "llama3",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            "attention_bias": False,
            "mlp_bias": False,
        },
        torch.bfloat16,
        generation={"bos_token_id": 1, "eos_token_id": [2, 5, 7]},
    ),
    # Every bias that the family knows, the old spelling of the scaling's type.
    Case(
        "llama_linear",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "rope_scaling": {"type": "linear", "factor": 4.0},
            "attention_bias": True,
            "mlp_bias": True,
        },
        torch.float16,
    ),
    # Two shards.
    Case(
        "mistral",
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "num_key_value_heads": 1,
            "rope_theta": 1000000.0,
            "sliding_window": None,
        },
        torch.bfloat16,
        n_shards=2,
    ),
    # Biases on query, key and value; the output projection is the embedding.
    Case(
        "qwen2",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": 128,
            "max_window_layers": 1,
        },
        torch.bfloat16,
    ),
    # Normalised queries and keys, heads wider than hidden / heads, the newer spelling of the rotary parameters.
    Case(
        "qwen3",
        {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "head_dim": 32,
            "rms_norm_eps": 1e-6,
            "rope_theta": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "attention_bias": False,
        },
        torch.bfloat16,
    ),
    # Every layer sees a window much shorter than the prompt.
    Case(
        "mistral_window",
        SMALL | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 12},
        torch.bfloat16,
    ),
    # The upper layers see a window.
    Case(
        "qwen2_window",
        SMALL
        | {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "head_dim": None,
            "use_sliding_window": True,
            "sliding_window": 10,
            "max_window_layers": 1,
        },
        torch.bfloat16,
    ),
    # Caps low enough to bend most scores and logits, an own scale of attention, windows in the layers 0 and 2.
    Case(
        "gemma2",
        SMALL
        | {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "hidden_act": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "sliding_window": 10,
            "tie_word_embeddings": None,
        },
        torch.bfloat16,
        norm_offset=1.0,
    ),
    # The older spelling of windows and of two rotary embeddings, of which that of the layers that see everything is scaled.
    Case(
        "gemma3",
        SMALL
        | {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "hidden_act": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 8,
            "sliding_window": 10,
            "sliding_window_pattern": 3,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 1000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "tie_word_embeddings": None,
        },
        torch.bfloat16,
        norm_offset=1.0,
    ),
    # Fused projections, three quarters of each head turned, a prompt beyond the original context.
    Case(
        "phi3",
        SMALL
        | {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "hidden_size": 32,
            "head_dim": None,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 16,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.1, 1.3],
                "long_factor": [1.5, 2.5, 6.0],
            },
            "sliding_window": 30,
            "pad_token_id": 0,
        },
        torch.bfloat16,
    ),
    # The last layer has no rotary embedding.
    Case(
        "smollm3",
        SMALL
        | {
            "architectures": ["SmolLM3ForCausalLM"],
            "model_type": "smollm3",
            "num_hidden_layers": 4,
            "head_dim": None,
            "rms_norm_eps": 1e-6,
            "pad_token_id": 0,
        },
        torch.bfloat16,
    ),
    # Four multipliers.
    Case(
        "granite",
        SMALL
        | {
            "architectures": ["GraniteForCausalLM"],
            "model_type": "granite",
            "head_dim": None,
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.3,
            "logits_scaling": 0.9,
        },
        torch.bfloat16,
    ),
    # Neighbours turn, in half of each head; norms on both sides of attention and feed-forward; biases on query, key and value.
    Case(
        "glm4",
        SMALL
        | {
            "architectures": ["Glm4ForCausalLM"],
            "model_type": "glm4",
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
            "pad_token_id": 0,
        },
        torch.bfloat16,
    ),
    # YaRN from an original context of 16.
    Case(
        "llama_yarn",
        SMALL
        | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": 16,
            "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16},
        },
        torch.bfloat16,
    ),
    # Experts in every layer, weights of the chosen ones scaled.
    Case(
        "qwen3_moe",
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "head_dim": 32,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        torch.bfloat16,
    ),
    # An ordinary layer between two with experts, weights not scaled.
    Case(
        "qwen3_moe_mixed",
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "norm_topk_prob": False,
            "mlp_only_layers": [1],
        },
        torch.float32,
    ),
    # The names of experts that Mixtral has.
    Case(
        "mixtral",
        {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "intermediate_size": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        torch.bfloat16,
        n_shards=2,
    ),
    # Queries and keys normalised over all heads, weights not scaled.
    Case(
        "olmoe",
        {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "num_key_value_heads": 4,
            "intermediate_size": 32,
            "num_experts": 8,
            "num_experts_per_tok": 4,
            "norm_topk_prob": False,
            "clip_qkv": None,
        },
        torch.bfloat16,
    ),
    # Experts in plain numbers, inputs before outputs.
    Case("gpt_oss", GPT_OSS, torch.bfloat16),
    # The same as published, and which layers see a window told.
    Case(
        "gpt_oss_mxfp4",
        GPT_OSS
        | {
            "layer_types": ["sliding_attention", "full_attention"],
            "attention_bias": True,
            "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        },
        torch.bfloat16,
        is_mxfp4=True,
    ),
    # Three delta layers below one of attention, as many follow without being told.
    Case(
        "qwen3_5",
        QWEN3_5 | {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "num_hidden_layers": 4},
        torch.bfloat16,
        norm_offset=1.0,
        has_mtp=True,
    ),
    # A delta layer at the end, experts beside one that all rows ask.
    Case(
        "qwen3_5_moe",
        QWEN3_5
        | {
            "architectures": ["Qwen3_5MoeForCausalLM"],
            "model_type": "qwen3_5_moe_text",
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "intermediate_size": None,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
        },
        torch.bfloat16,
        norm_offset=1.0,
        has_mtp=True,
    ),
    # Projections of delta layers in turns by head of keys, experts as of the last one.
    Case(
        "qwen3_next",
        QWEN3_5
        | {
            "architectures": ["Qwen3NextForCausalLM"],
            "model_type": "qwen3_next",
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0, "partial_rotary_factor": 0.25},
        },
        torch.bfloat16,
        norm_offset=1.0,
        has_mtp=True,
    ),
    # Layers that see everything have no projection of values; logits are capped.
    Case(
        "gemma4",
        GEMMA4
        | {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "final_logit_softcapping": 3.0,
        },
        torch.bfloat16,
    ),
    # The last three layers read keys and values of others and are twice as wide; every layer has an input of its own.
    Case(
        "gemma4_shared",
        GEMMA4
        | {
            "num_hidden_layers": 6,
            "layer_types": 2 * ["sliding_attention", "sliding_attention", "full_attention"],
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 56,
        },
        torch.bfloat16,
    ),
    # Experts beside an ordinary feed-forward part, heads of layers in the newer spelling.
    Case(
        "gemma4_moe",
        GEMMA4
        | {
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "global_head_dim": None,
            "per_layer_config": {"2": {"head_dim": 16, "num_key_value_heads": 1}},
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 3,
            "moe_intermediate_size": 12,
        },
        torch.bfloat16,
    ),
]
