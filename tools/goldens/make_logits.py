"""Tiny checkpoints of every family, and their logits as transformers computes them in f32 from the stored weights."""

import json
import math
import shutil
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoConfig

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


@dataclass(frozen=True)
class Case:
    """One folder of the fixtures."""

    name: str
    config: dict
    dtype: torch.dtype
    generation: dict | None = None
    n_shards: int = 1


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
]


def random_weights(shapes: dict[str, torch.Size], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights large enough that attention is far from uniform and every bias and norm matters; logits of deviation 1."""
    is_tied = "lm_head.weight" not in shapes
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight") or "layernorm" in name:
            weights[name] = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            weights[name] = 0.5 * noise
        elif "embed_tokens" in name:
            weights[name] = noise / math.sqrt(shape[-1]) if is_tied else noise
        else:
            gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            weights[name] = gain * noise / math.sqrt(shape[-1])
    return weights


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
    folder = FIXTURES / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    absent_if_none = ("num_key_value_heads", "rope_theta")
    config = {k: v for k, v in (BASE | case.config).items() if v is not None or k not in absent_if_none}
    write_json(folder / "config.json", config)
    if case.generation:
        write_json(folder / "generation_config.json", case.generation)

    generator = torch.Generator().manual_seed(seed)
    empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    if config["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    weights = random_weights(shapes, generator)
    save_weights(folder, {n: w.to(case.dtype).contiguous() for n, w in weights.items()}, case.n_shards)

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    tokens = torch.randint(0, config["vocab_size"], (PROMPT_LEN,), generator=generator)
    with torch.no_grad():
        logits = model.eval()(tokens[None]).logits[0]
    assert logits.dtype == torch.float32 and logits.std() > 0.3, logits.std()
    reference = {"tokens": tokens.to(torch.int32), "logits": logits.contiguous()}
    save_file(reference, folder / "logits.safetensors")
    n_params = sum(w.numel() for w in weights.values())
    print(f"{case.name}: {n_params} parameters, logits {tuple(logits.shape)}, deviation {logits.std():.3f}")


def main() -> None:
    torch.manual_seed(SEED)
    for i, case in enumerate(CASES):
        make(case, SEED + i)
