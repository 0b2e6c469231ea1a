"""Weights of tiny checkpoints: drawn, laid out as published, and written."""

import json
import math

import torch
from safetensors.torch import save_file


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
