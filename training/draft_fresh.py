"""A draft to be trained, made of its target: some of its layers and its embeddings, in fewer channels.

The channels are the directions in which the target's embeddings differ most. Layers read and write the stream through
them, so that what they compute stays nearly theirs, and learning starts from there rather than from noise.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from eagle3_features import Features
from model import Layer, Llama

# Size of the first outputs beside those of the target: a draft that knows little yet should not be sure.
FIRST_SHARPNESS = 0.2

# Documents from which the sizes of the target's streams are measured.
MEASURED_DOCUMENTS = 16


def channels(embeddings: Tensor, weights: Tensor, size: int) -> Tensor:
    """Orthonormal directions [hidden_size, size] along which the weighted embeddings [n, hidden_size] are largest."""
    if not 0 < size <= embeddings.shape[1]:
        raise ValueError(f"expected 1..{embeddings.shape[1]} channels, got {size}")
    if size == embeddings.shape[1]:
        return torch.eye(size)
    moments = embeddings.T @ (embeddings * weights[:, None])
    return torch.linalg.eigh(moments).eigenvectors[:, -size:].flip(1).contiguous()


@torch.inference_mode()
def stream_sizes(target: Llama, part: Features) -> list[float]:
    """Root mean square of what enters each layer, first tokens left out, whose streams are far larger than others."""
    backbone, kept = target.model, []
    for i in range(min(MEASURED_DOCUMENTS, len(part.documents))):
        tokens = torch.from_numpy(part.documents[i].astype("int64"))[None]
        x, squares = backbone.embed_tokens(tokens), []
        for layer in backbone.layers:
            squares.append(x[:, 1:].square().mean())
            x = layer(x, backbone.cos[: x.shape[1]], backbone.sin[: x.shape[1]], None, None)
        kept.append(torch.stack(squares))
    return torch.stack(kept).mean(0).sqrt().tolist()


def neurons(layer: Layer, n: int) -> Tensor:
    """The `n` of a feed-forward that can say most, by the norms of what they read and write."""
    mlp = layer.mlp
    sizes = mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1) * mlp.down_proj.weight.norm(dim=0)
    return sizes.topk(n).indices.sort().values


def projected(source: Layer, to_draft: Tensor, ff_size: int, size_share: float) -> dict[str, Tensor]:
    """Weights of a layer of the target that reads and writes the draft's channels.

    size_share: of the stream where the layer will stand, beside the one it was trained on. Norms divide by the root of
    the mean over fewer channels, which the norm weights undo.
    """
    attention, mlp, kept = source.self_attn, source.mlp, neurons(source, ff_size)
    n_target, n_draft = to_draft.shape
    norm = torch.full((n_draft,), (n_target / n_draft) ** 0.5)

    def reading(weight: Tensor, norm_weight: Tensor) -> Tensor:
        return (weight * norm_weight) @ to_draft

    first, second = source.input_layernorm.weight, source.post_attention_layernorm.weight
    return {
        "input_layernorm.weight": norm,
        "self_attn.q_proj.weight": reading(attention.q_proj.weight, first),
        "self_attn.k_proj.weight": reading(attention.k_proj.weight, first),
        "self_attn.v_proj.weight": reading(attention.v_proj.weight, first),
        "self_attn.o_proj.weight": to_draft.T @ attention.o_proj.weight * size_share,
        "post_attention_layernorm.weight": norm.clone(),
        "mlp.gate_proj.weight": reading(mlp.gate_proj.weight[kept], second),
        "mlp.up_proj.weight": reading(mlp.up_proj.weight[kept], second),
        "mlp.down_proj.weight": to_draft.T @ mlp.down_proj.weight[:, kept] * size_share,
    }


def fresh_draft(
    target: Llama, draft_to_target: Tensor, weights: Tensor, layers: list[int], size: int, ff_size: int, part: Features
) -> Llama:
    """A draft of `size` channels whose layers began as the layers `layers` of the target, counted from 0.

    weights: f32 [draft_vocab_size], how much each of its tokens matters.
    """
    shape = target.shape
    if not layers or not all(0 <= layer < shape.n_layers for layer in layers):
        raise ValueError(f"expected layers of the target in 0..{shape.n_layers - 1}, got {layers}")
    if not 0 < ff_size <= shape.ff_size:
        raise ValueError(f"expected a feed-forward width of 1..{shape.ff_size}, got {ff_size}")
    own = {"vocab_size": len(draft_to_target), "hidden_size": size, "n_layers": len(layers), "ff_size": ff_size}
    # Heads, positions and context are the target's.
    draft = Llama(replace(shape, **own))
    rows = target.model.embed_tokens.weight[draft_to_target]
    to_draft = channels(rows, weights, size)
    sizes = stream_sizes(target, part)
    with torch.no_grad():
        draft.model.embed_tokens.weight.copy_(rows @ to_draft)
        for place, (layer, source) in enumerate(zip(draft.model.layers, layers, strict=True)):
            size_share = sizes[place] / sizes[source]
            layer.load_state_dict(projected(target.model.layers[source], to_draft, ff_size, size_share))
        spread = float(target.model.norm.weight.abs().mean()) * (shape.hidden_size / size) ** 0.5
        nn.init.constant_(draft.model.norm.weight, FIRST_SHARPNESS * spread)
    return draft
