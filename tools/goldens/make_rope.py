"""Rotary frequencies as transformers computes them, for every scaling and spelling."""

import copy
import json

from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from paths import FIXTURES

BASE = {
    "vocab_size": 48,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
}
LLAMA = BASE | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 10000.0}
GEMMA3 = BASE | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
GEMMA4 = GEMMA3 | {
    "architectures": ["Gemma4ForCausalLM"],
    "model_type": "gemma4_text",
    "global_head_dim": 32,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
PHI3 = BASE | {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "pad_token_id": 0,
    "partial_rotary_factor": 0.5,
    "original_max_position_embeddings": 32,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.5, 9.0, 33.0]},
}


def llama(**scaling) -> dict:
    return LLAMA | {"rope_scaling": scaling}


def yarn(**more) -> dict:
    return llama(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, **more)


# Fields of config.json, the longest sequence, and of which kind of layers; `None` where all are alike.
CASES = [
    (LLAMA, 128, None),
    (llama(type="linear", factor=4.0), 128, None),
    (llama(rope_type="dynamic", factor=4.0), 100, None),
    (llama(rope_type="dynamic", factor=4.0), 128, None),
    (llama(rope_type="dynamic", factor=4.0), 300, None),
    (
        llama(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
        128,
        None,
    ),
    (yarn(), 128, None),
    (yarn(beta_fast=4.0, beta_slow=0.5), 128, None),
    (yarn(truncate=False), 128, None),
    (yarn(attention_factor=1.25), 128, None),
    (yarn(mscale=1.5, mscale_all_dim=0.5), 128, None),
    (yarn(mscale=1.5), 128, None),
    # The newer spelling.
    (LLAMA | {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}, 128, None),
    (
        LLAMA
        | {
            "rope_theta": None,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
        128,
        None,
    ),
    (PHI3, 32, None),
    (PHI3, 33, None),
    (PHI3 | {"rope_scaling": PHI3["rope_scaling"] | {"type": "su", "original_max_position_embeddings": 32}}, 64, None),
    (PHI3 | {"rope_scaling": PHI3["rope_scaling"] | {"attention_factor": 1.5}}, 64, None),
    # One rotary embedding per kind of layers, in the older spelling and the newer.
    (GEMMA3, 128, "full_attention"),
    (GEMMA3, 128, "sliding_attention"),
    (
        GEMMA3
        | {
            "rope_theta": 100000.0,
            "rope_local_base_freq": 1000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        128,
        "full_attention",
    ),
    (
        GEMMA3
        | {
            "rope_theta": 100000.0,
            "rope_local_base_freq": 1000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        128,
        "sliding_attention",
    ),
    (
        GEMMA3
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            }
        },
        128,
        "full_attention",
    ),
    (
        GEMMA3
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            }
        },
        128,
        "sliding_attention",
    ),
    # A part of the pairs of heads of another size, and the same slowed down.
    (GEMMA4, 128, "full_attention"),
    (GEMMA4, 128, "sliding_attention"),
    (
        GEMMA4
        | {
            "rope_parameters": GEMMA4["rope_parameters"]
            | {
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.5,
                    "rope_theta": 1000.0,
                    "factor": 4.0,
                }
            }
        },
        128,
        "full_attention",
    ),
]


def frequencies(fields: dict, length: int, kind: str | None) -> tuple[list[float], float]:
    fields = {name: value for name, value in fields.items() if value is not None}
    # It writes defaults into what it is given.
    config = AutoConfig.for_model(**copy.deepcopy(fields))
    parameters = config.rope_parameters[kind] if kind else config.rope_parameters
    rope_type = parameters["rope_type"]
    if rope_type == "default":
        share = parameters.get("partial_rotary_factor", 1.0)
        if config.model_type == "gemma4_text":
            config = config.per_layer_config[kind]
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dim = int(head_dim * share)
        return [parameters["rope_theta"] ** (-2 * i / dim) for i in range(dim // 2)], 1.0
    found, factor = ROPE_INIT_FUNCTIONS[rope_type](config, seq_len=length, layer_type=kind)
    # Pairs that do not turn are none.
    return found[found != 0].tolist(), factor


def main() -> None:
    made = []
    for fields, length, kind in CASES:
        found, factor = frequencies(fields, length, kind)
        fields = {name: value for name, value in fields.items() if value is not None}
        made.append({"config": fields, "length": length, "kind": kind, "frequencies": found, "factor": factor})
    (FIXTURES / "rope.json").write_text("\n".join(["[", ",\n".join(json.dumps(case) for case in made), "]", ""]))
    print(f"rope: {len(made)} cases")
