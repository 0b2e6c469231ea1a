"""Llama in plain PyTorch: RMSNorm, rotary positions (half-split), grouped-query attention, SwiGLU, tied embeddings.

Module names are chosen so that `state_dict` carries the weight names of a Hugging Face folder; only `lm_head` is
missing, because the embedding is used twice. A test compares the logits with those of transformers.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

# Standard deviation of fresh weights, the usual choice for small transformers.
INIT_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the query width is `n_heads * head_dim`."""

    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ff_size: int
    # Longest context the folder promises.
    context_len: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> Self:
        """The shape named by a Hugging Face config.json; refuses what this model does not implement."""
        if config.get("model_type") != "llama" or not config.get("tie_word_embeddings"):
            raise ValueError("expected a llama model with tied embeddings")
        heads = config["num_attention_heads"]
        rope = config.get("rope_parameters") or {}
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            n_layers=config["num_hidden_layers"],
            n_heads=heads,
            n_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            ff_size=config["intermediate_size"],
            context_len=config["max_position_embeddings"],
            rope_theta=config.get("rope_theta") or rope.get("rope_theta", 10000.0),
            norm_eps=config["rms_norm_eps"],
        )


class Cache:
    """Keys and values of a batch, one pair per layer, [batch, n_kv_heads, capacity, head_dim]."""

    def __init__(self, shape: Shape, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        size = (shape.n_layers, batch, shape.n_kv_heads, capacity, shape.head_dim)
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        self.context_len = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new positions of a layer and returns all stored ones."""
        end = self.context_len + keys.shape[2]
        self.keys[layer, :, :, self.context_len : end] = keys
        self.values[layer, :, :, self.context_len : end] = values
        return self.keys[layer, :, :, :end].to(keys.dtype), self.values[layer, :, :, :end].to(values.dtype)


class Norm(nn.Module):
    """RMSNorm; the mean of squares is taken in f32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rope_tables(head_dim: int, theta: float, n_positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [n_positions, head_dim / 2]: pair i turns by `position * theta^(-2i / head_dim)`."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(n_positions, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns pair (x[i], x[i + head_dim / 2]) of each head by its angle; x is [batch, heads, rows, head_dim]."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention; query head h reads key/value head `h // (n_heads / n_kv_heads)`."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim, self.group = layer, shape.head_dim, shape.n_heads // shape.n_kv_heads
        query_size, kv_size = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(query_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        batch, rows, _ = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, rows, -1, self.head_dim).transpose(1, 2)

        queries = rotate(heads(self.q_proj(x)), cos, sin)
        keys, values = rotate(heads(self.k_proj(x)), cos, sin), heads(self.v_proj(x))
        if cache is not None:
            keys, values = cache.extend(self.layer, keys, values)
        if rows == 1:
            # The query heads of a group become rows, so that decoding copies no keys and values.
            queries = queries.reshape(batch, -1, self.group, self.head_dim)
            out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            return self.o_proj(out.reshape(batch, 1, -1))
        # Repeated heads rather than enable_gqa: with a mask, only then CUDA has a kernel that stores no score matrix.
        keys, values = (y.repeat_interleave(self.group, dim=1) for y in (keys, values))
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(out.transpose(1, 2).reshape(batch, rows, -1))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.ff_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.ff_size, bias=False)
        self.down_proj = nn.Linear(shape.ff_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Tokens [batch, rows] to normalised hidden states [batch, rows, hidden_size]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, i) for i in range(shape.n_layers))
        self.norm = Norm(shape.hidden_size, shape.norm_eps)
        cos, sin = rope_tables(shape.head_dim, shape.rope_theta, shape.context_len)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        start = 0 if cache is None else cache.context_len
        end = start + tokens.shape[1]
        if cache is not None and mask is None:
            mask = padded_mask(
                torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device), start, tokens.shape[1]
            )
        cos, sin = self.cos[start:end], self.sin[start:end]
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        if cache is not None:
            cache.context_len = end
        return self.norm(x)


class Llama(nn.Module):
    """The whole model; the output matrix is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Backbone(shape)
        self.apply(self._fresh)

    def _fresh(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=INIT_STD)
        # What is added to the stream starts smaller, so that its variance does not grow with depth.
        if isinstance(module, Layer):
            for projection in (module.self_attn.o_proj, module.mlp.down_proj):
                nn.init.normal_(projection.weight, std=INIT_STD / math.sqrt(2 * self.shape.n_layers))

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., hidden_size] to logits [..., vocab_size], f32."""
        return F.linear(hidden, self.model.embed_tokens.weight.to(hidden.dtype)).float()

    def forward(self, tokens: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits of every row; without a mask, row i sees positions 0..=i."""
        return self.logits(self.model(tokens, mask, cache))

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device


def document_mask(segments: Tensor) -> Tensor:
    """Rows see earlier positions of their own document: segments [batch, rows] to a mask [batch, 1, rows, rows].

    Rotary positions are relative, so documents later in a row need no positions of their own.
    """
    rows = segments.shape[1]
    causal = torch.ones(rows, rows, dtype=torch.bool, device=segments.device).tril()
    return (causal & (segments[:, :, None] == segments[:, None, :])).unsqueeze(1)


def padded_mask(first: Tensor, start: int, rows: int) -> Tensor:
    """Mask [batch, 1, rows, start + rows] for left-padded rows: `first[b]` is the first real position of b.

    A padding position sees itself, because a softmax over nothing is NaN and would spread.
    """
    positions = torch.arange(start + rows, device=first.device)
    queries = positions[start:, None]
    causal = positions[None, :] <= queries
    real = positions[None, None, :] >= first[:, None, None]
    return ((causal & real) | (positions[None, :] == queries)).unsqueeze(1)


def load_folder(folder: Path) -> Llama:
    """A model from a Hugging Face folder with one model.safetensors, in f32."""
    shape = Shape.from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model = Llama(shape)
    weights = {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}
    weights.pop("lm_head.weight", None)
    model.load_state_dict(weights)
    return model
