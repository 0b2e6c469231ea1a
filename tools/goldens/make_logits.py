"""Tiny checkpoints of every family, and their logits as transformers computes them in f32 from the stored weights."""

import json
import math
import shutil
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Mxfp4Config

from paths import FIXTURES

SEED = 20250901
PROMPT_LEN = 40

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

# Least distance of the scores of the last expert that a row asks and of the first that it does not; scores have a deviation of 2.
# Rounding keys to bf16 moves them by a hundredth, and another choice of experts would be another output.
MARGIN_MIN = 0.03


def random_weights(
    shapes: dict[str, torch.Size], generator: torch.Generator, norm_offset: float
) -> dict[str, torch.Tensor]:
    """Weights large enough that attention is far from uniform and every bias and norm matters; logits of deviation 1."""
    is_tied = "lm_head.weight" not in shapes
    is_gpt_oss = any(name.endswith("sinks") for name in shapes)
    is_gemma4 = any(name.endswith("layer_scalar") for name in shapes)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if is_gpt_oss and (name.endswith("sinks") or "experts" in name):
            weights[name] = noise * deviation(name, shape)
            continue
        if name.endswith("linear_attn.norm.weight"):
            weights[name] = 1.0 + 0.3 * noise
        elif name.endswith("A_log"):
            # States that keep from a tenth to nearly all of what they hold.
            weights[name] = noise - 1.5
        elif name.endswith("dt_bias"):
            weights[name] = noise
        elif is_gemma4 and name.endswith("q_norm.weight"):
            # Scores are not scaled: this does it.
            weights[name] = 0.3 * (1.0 + 0.3 * noise)
        elif name.endswith(("norm.weight", "layer_scalar", "router.scale", "per_expert_scale")) or "layernorm" in name:
            weights[name] = 1.0 - norm_offset + 0.3 * noise
        elif name.endswith(".bias"):
            weights[name] = 0.5 * noise
        elif "embed_tokens_per_layer" in name:
            weights[name] = 0.3 * noise
        elif name.endswith("router.proj.weight"):
            # Its input is divided by the root of its width.
            weights[name] = 2.0 * noise
        elif "embed_tokens" in name:
            weights[name] = noise / math.sqrt(shape[-1]) if is_tied else noise
        else:
            gain = 2.0 if "q_proj" in name or "k_proj" in name or "qkv_proj" in name or is_router(name) else 1.0
            weights[name] = gain * noise / math.sqrt(shape[-1])
    return weights


def beside_shared(config, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What files of Gemma 4 hold for keys and values of layers that read those of others, and nobody uses."""
    n_sharing = getattr(config, "num_kv_shared_layers", 0)
    unused = {}
    for layer in range(config.num_hidden_layers - n_sharing, config.num_hidden_layers):
        heads = config.per_layer_config[layer]
        for name in ("k_proj", "v_proj"):
            shape = (heads.num_key_value_heads * heads.head_dim, config.hidden_size)
            unused[f"model.layers.{layer}.self_attn.{name}.weight"] = torch.full(shape, 0.5, dtype=dtype)
        unused[f"model.layers.{layer}.self_attn.k_norm.weight"] = torch.full((heads.head_dim,), 0.5, dtype=dtype)
    return unused


def deviation(name: str, shape: torch.Size) -> float:
    """Of what only gpt-oss has: gates of which some are clamped."""
    if name.endswith("_proj"):
        return (3.0 if "gate_up" in name else 1.0) / math.sqrt(shape[-2])
    return 0.5 if name.endswith("_bias") else 2.0


def is_router(name: str) -> bool:
    return name.endswith((".gate.weight", ".router.weight"))


def in_mxfp4(weights: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """With any codes for the experts, and scales that make them about as large as they were."""
    stored = {}
    for name, tensor in weights.items():
        if not name.endswith("_proj"):
            stored[name] = tensor
            continue
        n_experts, n_in, n_out = tensor.shape
        blocks = (n_experts, n_out, n_in // 32)
        stored[f"{name}_blocks"] = torch.randint(256, (*blocks, 16), generator=generator).to(torch.uint8)
        # Values of codes have a root mean square of 2.9, exponents a bias of 127.
        exponent = round(math.log2(tensor.std().item() / 2.9)) + 127
        scales = torch.randint(exponent - 1, exponent + 2, blocks, generator=generator)
        stored[f"{name}_scales"] = scales.to(torch.uint8)
    return stored


def published(model_type: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One matrix per expert, as such models are published; transformers holds all experts of a layer in one."""
    if model_type == "gpt_oss":
        return weights
    is_mixtral = model_type == "mixtral"
    parts = {"gate": "w1", "up": "w3", "down": "w2"} if is_mixtral else {n: f"{n}_proj" for n in ("gate", "up", "down")}
    single = {}
    for name, tensor in weights.items():
        layer, _, module = name.partition(".mlp.")
        prefix = f"{layer}.block_sparse_moe" if is_mixtral else f"{layer}.mlp"
        if module == "experts.gate_up_proj":
            for i, expert in enumerate(tensor):
                gate, up = expert.chunk(2)
                single[f"{prefix}.experts.{i}.{parts['gate']}.weight"] = gate
                single[f"{prefix}.experts.{i}.{parts['up']}.weight"] = up
        elif module == "experts.down_proj":
            for i, expert in enumerate(tensor):
                single[f"{prefix}.experts.{i}.{parts['down']}.weight"] = expert
        elif is_router(name):
            single[f"{prefix}.gate.weight"] = tensor
        else:
            single[name] = tensor
    return single


def margin(model, tokens: torch.Tensor) -> float:
    """How far the choice of experts is from another one."""
    is_gemma4 = model.config.model_type == "gemma4_text"
    n_chosen = getattr(model.config, "top_k_experts" if is_gemma4 else "num_experts_per_tok", None)
    if n_chosen is None:
        return math.inf
    scores = torch.cat(model(tokens[None], output_router_logits=True).router_logits)
    # Those of Gemma 4 are probabilities already.
    scores = scores.log() if is_gemma4 else scores
    ranked = scores.sort(descending=True).values
    return (ranked[:, n_chosen - 1] - ranked[:, n_chosen]).min().item()


# How the names of the tensors of a head begin, and of those of its layer.
HEAD, HEAD_LAYER = "mtp.", "mtp.layers.0."
# Tokens that the target has emitted when the head guesses, and how many it guesses.
KNOWN_LENS, GUESSED_LEN = (2, 9, 20, 33), 3


def head_config(config):
    """A model of one layer of attention: that of the head."""
    config = type(config).from_dict(config.to_dict())
    config.num_hidden_layers, config.layer_types = 1, ["full_attention"]
    return config


def random_head(config, target: dict[str, torch.Tensor], case: Case, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Tensors of a head for `target` as published."""
    model = AutoModelForCausalLM.from_config(head_config(config))
    size, prefix = config.hidden_size, "model.layers.0."
    shapes = {
        HEAD_LAYER + name.removeprefix(prefix): tensor.shape
        for name, tensor in model.state_dict().items()
        if name.startswith(prefix)
    }
    norms = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
    shapes |= {f"{HEAD}{name}.weight": torch.Size([size]) for name in norms[:2]}
    shapes |= {f"{HEAD}fc.weight": torch.Size([size, 2 * size]), f"{HEAD}norm.weight": torch.Size([size])}
    weights = random_weights(shapes, generator, case.norm_offset)
    for name in norms[:2]:
        weights[f"{HEAD}{name}.weight"] = 1.0 - case.norm_offset + 0.3 * torch.randn(size, generator=generator)
    return {n: w.to(case.dtype).contiguous() for n, w in published(config.model_type, weights).items()}


@torch.no_grad()
def head_guesses(model, stored: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor | None:
    """Log-probabilities [known lengths, guesses, vocabulary] of what the head guesses behind the first tokens, if the words of
    the text follow; `None` where a choice of experts would be in doubt.

    The state of the target is that behind its final norm; from the second guess on it is the head's, behind its own.
    """
    config = head_config(model.config)
    head = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    own = {name: tensor.float() for name, tensor in stored.items() if name.startswith(HEAD)}
    layer = {"model.layers.0." + n.removeprefix(HEAD_LAYER): t for n, t in fused(own).items() if n.startswith(HEAD_LAYER)}
    shared = {"model.norm.weight": own[f"{HEAD}norm.weight"]}
    shared |= {n: stored[n].float() for n in ("model.embed_tokens.weight", "lm_head.weight")}
    head.load_state_dict(layer | shared)
    join = own[f"{HEAD}fc.weight"]
    norms = []
    for name in ("embedding", "hidden"):
        norm = type(head.model.norm)(config.hidden_size, eps=config.rms_norm_eps)
        norm.weight.copy_(own[f"{HEAD}pre_fc_norm_{name}.weight"])
        norms.append(norm)
    embeddings = head.model.embed_tokens(tokens)
    states = model.model(tokens[None]).last_hidden_state[0]
    guesses = []
    for n_known in KNOWN_LENS:
        features = states[: n_known - 1]
        for n_tokens in range(n_known, n_known + GUESSED_LEN):
            inputs = torch.cat((norms[0](embeddings[1:n_tokens]), norms[1](features)), dim=-1) @ join.T
            output = head.model(inputs_embeds=inputs[None], output_router_logits=True)
            if is_doubtful(config, output):
                return None
            output = output.last_hidden_state[0, -1:]
            guesses.append(head.lm_head(output)[0].log_softmax(-1))
            features = torch.cat((features, output))
    return torch.stack(guesses).view(len(KNOWN_LENS), GUESSED_LEN, -1)


def fused(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reverse of `published` for one layer."""
    marker = ".mlp.experts."
    kept = {name: tensor for name, tensor in weights.items() if marker not in name}
    if len(kept) == len(weights):
        return kept
    prefix = HEAD_LAYER.removesuffix(".") + marker
    n_experts = len({name.removeprefix(prefix).split(".")[0] for name in weights if marker in name})
    part = lambda i, name: weights[f"{prefix}{i}.{name}_proj.weight"]
    gate_up = [torch.cat((part(i, "gate"), part(i, "up"))) for i in range(n_experts)]
    kept[f"{prefix}gate_up_proj"] = torch.stack(gate_up)
    kept[f"{prefix}down_proj"] = torch.stack([part(i, "down") for i in range(n_experts)])
    return kept


def is_doubtful(config, output) -> bool:
    """Whether some row's choice of experts is close to another one."""
    n_chosen = getattr(config, "num_experts_per_tok", None)
    if n_chosen is None:
        return False
    ranked = torch.cat(output.router_logits).sort(descending=True).values
    return (ranked[:, n_chosen - 1] - ranked[:, n_chosen]).min().item() < MARGIN_MIN


def save_weights(folder, weights: dict[str, torch.Tensor], n_shards: int) -> None:
    """One file, or several and their index; layer tensors are dealt in turn."""
    if n_shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard_idx in range(n_shards):
        shard = f"model-{shard_idx + 1:05}-of-{n_shards:05}.safetensors"
        part = {name: weights[name] for name in sorted(weights)[shard_idx::n_shards]}
        save_file(part, folder / shard, metadata={"format": "pt"})
        weight_map |= {name: shard for name in part}
    total = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path, value) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def make(case: Case, seed: int) -> None:
    """Of a model with experts, with the first of some seeds that leaves no doubt about which are chosen."""
    while not try_make(case, seed):
        seed += 1000


def try_make(case: Case, seed: int) -> bool:
    folder = FIXTURES / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    absent_if_none = ("num_key_value_heads", "rope_theta", "head_dim", "hidden_act", "tie_word_embeddings", "intermediate_size", "global_head_dim")
    config = {k: v for k, v in (BASE | case.config).items() if v is not None or k not in absent_if_none}
    write_json(folder / "config.json", config)
    if case.generation:
        write_json(folder / "generation_config.json", case.generation)

    generator = torch.Generator().manual_seed(seed)
    loaded = AutoConfig.from_pretrained(folder)
    empty = AutoModelForCausalLM.from_config(loaded)
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    if loaded.tie_word_embeddings:
        del shapes["lm_head.weight"]
    weights = random_weights(shapes, generator, case.norm_offset)
    stored = {n: w.to(case.dtype).contiguous() for n, w in published(config["model_type"], weights).items()}
    if case.is_mxfp4:
        stored = in_mxfp4(stored, generator)
    stored |= beside_shared(loaded, case.dtype)
    head_generator = torch.Generator().manual_seed(seed)
    if case.has_mtp:
        stored |= random_head(loaded, stored, case, head_generator)
    save_weights(folder, stored, case.n_shards)

    quantised = {"quantization_config": Mxfp4Config(dequantize=True)} if case.is_mxfp4 else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **quantised
    )
    unexpected = [name for name in info["unexpected_keys"] if not name.startswith(HEAD)]
    assert not info["missing_keys"] and not unexpected, info
    tokens = torch.randint(0, config["vocab_size"], (PROMPT_LEN,), generator=generator)
    with torch.no_grad():
        logits = model.eval()(tokens[None]).logits[0]
        if margin(model, tokens) < MARGIN_MIN:
            return False
    assert logits.dtype == torch.float32 and logits.std() > 0.3, logits.std()
    reference = {"tokens": tokens.to(torch.int32), "logits": logits.contiguous()}
    save_file(reference, folder / "logits.safetensors")
    if case.has_mtp:
        guesses = head_guesses(model, stored, tokens)
        if guesses is None:
            return False
        save_file({"log_probs": guesses}, folder / "mtp.safetensors")
    n_params = sum(w.numel() for w in weights.values())
    print(f"{case.name}: {n_params} parameters, logits {tuple(logits.shape)}, deviation {logits.std():.3f}")
    return True


def main() -> None:
    torch.manual_seed(SEED)
    for i, case in enumerate(CASES):
        make(case, SEED + i)
