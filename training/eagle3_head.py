"""EAGLE-3 (arXiv 2503.01840): a one-layer draft head that reads the target's hidden states, in its published format.

Row i of a sequence stands for the token i + 1: it sees that token's embedding and what the target thought at i, and
foresees token i + 2. There is no row for token 0. `state_dict` carries the names of the published files.
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model import INIT_STD, FeedForward, Llama, Norm, Shape, rope_tables, rotate

ARCHITECTURE = "LlamaForCausalLMEagle3"

# Standard deviation of what is added to the stream of a fresh head.
SMALL_STD = INIT_STD / 5

# Size of the first outputs beside those of the target: a head that knows nothing yet should not be sure.
FIRST_SHARPNESS = 0.7

# Smallest weight of the final norm that a fresh head divides by.
CHANNEL_MIN = 0.1


def tap_layers(n_layers: int) -> tuple[int, int, int]:
    """After how many layers of the target its residual stream is read: low, middle, high."""
    if n_layers < 7:
        raise ValueError(f"expected a target of at least 7 layers to read three different streams, got {n_layers}")
    return 2, n_layers // 2, n_layers - 3


@dataclass(frozen=True)
class HeadShape:
    """Sizes of a head: its layer has those of the target, and it proposes `draft_vocab_size` of its tokens."""

    layer: Shape
    draft_vocab_size: int

    def __post_init__(self) -> None:
        if self.layer.n_layers != 1:
            raise ValueError(f"expected one layer, got {self.layer.n_layers}")
        if not 0 < self.draft_vocab_size <= self.layer.vocab_size:
            raise ValueError(f"expected a draft vocabulary of 1..{self.layer.vocab_size}, got {self.draft_vocab_size}")

    def config(self) -> dict[str, Any]:
        """config.json of the published format."""
        shape = self.layer
        return {
            "architectures": [ARCHITECTURE],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.ff_size,
            "num_hidden_layers": 1,
            "num_attention_heads": shape.n_heads,
            "num_key_value_heads": shape.n_kv_heads,
            "head_dim": shape.head_dim,
            "rms_norm_eps": shape.norm_eps,
            "rope_theta": shape.rope_theta,
            "max_position_embeddings": shape.context_len,
            "vocab_size": shape.vocab_size,
            "draft_vocab_size": self.draft_vocab_size,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The shape named by a config.json; refuses what this head does not implement."""
        names, n_layers = config.get("architectures"), config.get("num_hidden_layers")
        if names != [ARCHITECTURE] or n_layers != 1:
            raise ValueError(f"expected one layer of {ARCHITECTURE}, got {n_layers} of {names}")
        # A head has no embedding of its own, and the shape of its target is one with tied ones.
        return cls(Shape.from_hf(config | {"tie_word_embeddings": True}), config["draft_vocab_size"])


class HeadAttention(nn.Module):
    """Projections of grouped-query attention; queries, keys and values read embedding and hidden state side by side."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        query_size, kv_size = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
        self.q_proj = nn.Linear(2 * shape.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(2 * shape.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(2 * shape.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(query_size, shape.hidden_size, bias=False)


class HeadLayer(nn.Module):
    """The one layer, in parts: attention differs between training and drafting, the rest does not."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.input_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.hidden_norm = Norm(shape.hidden_size, shape.norm_eps)
        self.self_attn = HeadAttention(shape)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.mlp = FeedForward(shape)
        cos, sin = rope_tables(shape.head_dim, shape.rope_theta, shape.context_len)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def normed(self, embeddings: Tensor, hidden: Tensor) -> Tensor:
        """What attention reads: [n, hidden_size] twice to [n, 2 * hidden_size]."""
        return torch.cat((self.input_layernorm(embeddings), self.hidden_norm(hidden)), dim=-1)

    def queries(self, normed: Tensor, positions: Tensor) -> Tensor:
        """[n, n_heads, head_dim], turned to their positions [n]."""
        return self._turned(self.self_attn.q_proj(normed), positions)

    def keys_values(self, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[n, n_kv_heads, head_dim] each; keys turned to their positions [n]."""
        values = self.self_attn.v_proj(normed).unflatten(-1, (-1, self.head_dim))
        return self._turned(self.self_attn.k_proj(normed), positions), values

    def output(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The stream behind the layer, un-normed: what the next step of a chain reads as its hidden state."""
        hidden = hidden + self.self_attn.o_proj(attended.flatten(-2))
        return hidden + self.mlp(self.post_attention_layernorm(hidden))

    def _turned(self, flat: Tensor, positions: Tensor) -> Tensor:
        heads = flat.unflatten(-1, (-1, self.head_dim))
        return rotate(heads, self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1))


class Head(nn.Module):
    """The whole head; token ids of its output count the reduced vocabulary, `d2t` leads back to the target's."""

    def __init__(self, shape: HeadShape, draft_to_target: Tensor) -> None:
        super().__init__()
        self.shape = shape
        size = shape.layer.hidden_size
        self.fc = nn.Linear(3 * size, size, bias=False)
        self.midlayer = HeadLayer(shape.layer)
        self.norm = Norm(size, shape.layer.norm_eps)
        self.lm_head = nn.Linear(size, shape.draft_vocab_size, bias=False)
        is_proposed = torch.zeros(shape.layer.vocab_size, dtype=torch.bool)
        is_proposed[draft_to_target] = True
        if int(is_proposed.sum()) != shape.draft_vocab_size or not bool((draft_to_target.diff() > 0).all()):
            raise ValueError(f"expected {shape.draft_vocab_size} different token ids in ascending order")
        self.register_buffer("d2t", draft_to_target - torch.arange(shape.draft_vocab_size))
        self.register_buffer("t2d", is_proposed)

    @property
    def draft_to_target(self) -> Tensor:
        """The target's id of each draft id, i64 [draft_vocab_size]."""
        return self.d2t + torch.arange(len(self.d2t), device=self.d2t.device)

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True)
class StreamSizes:
    """Root mean squares of the target's streams, by which a fresh head is scaled.

    taps: f32 [3], of the streams a head reads; high_normed: of the high one times the final norm's weights; last: of
    what the final norm gives.
    """

    taps: Tensor
    high_normed: float
    last: float


def fresh_head(target: Llama, draft_to_target: Tensor, sizes: StreamSizes) -> Head:
    """A head to be trained. It begins where the target ends, which learns several times faster than random weights.

    Its stream is the target's high stream, scaled channel by channel by the final norm, so that all channels matter
    alike to the output rows; those and the feed-forward are the target's own. The rest is random and small.
    """
    shape = target.shape
    size = shape.hidden_size
    head = Head(HeadShape(replace(shape, n_layers=1), len(draft_to_target)), draft_to_target)
    final_norm, last_layer = target.model.norm.weight, target.model.layers[-1]
    to_head = final_norm / sizes.high_normed
    # A channel that the final norm switches off would be divided by nothing.
    from_head = torch.where(final_norm < 0, -1.0, 1.0) / to_head.abs().clamp_min(CHANNEL_MIN / sizes.high_normed)
    with torch.no_grad():
        attention = head.midlayer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            nn.init.normal_(projection.weight, std=INIT_STD)
        nn.init.normal_(attention.o_proj.weight, std=SMALL_STD)
        nn.init.normal_(head.fc.weight, std=SMALL_STD).div_(sizes.taps.repeat_interleave(size))
        head.fc.weight[:, -size:] += to_head.diag()
        head.midlayer.mlp.load_state_dict(last_layer.mlp.state_dict())
        head.midlayer.mlp.down_proj.weight.mul_(to_head[:, None])
        head.midlayer.post_attention_layernorm.weight.copy_(
            last_layer.post_attention_layernorm.weight * from_head / sizes.taps[-1]
        )
        head.norm.weight.fill_(sizes.last * FIRST_SHARPNESS)
        head.lm_head.weight.copy_(target.model.embed_tokens.weight[draft_to_target])
    return head


def with_vocabulary(head: Head, target: Llama, draft_to_target: Tensor) -> Head:
    """The head with another reduced vocabulary: tokens new to it begin with the target's output rows."""
    changed = Head(HeadShape(head.shape.layer, len(draft_to_target)), draft_to_target)
    own = ("lm_head.weight", "d2t", "t2d")
    changed.load_state_dict({name: t for name, t in head.state_dict().items() if name not in own}, strict=False)
    with torch.no_grad():
        rows = target.model.embed_tokens.weight.clone()
        rows[head.draft_to_target] = head.lm_head.weight
        changed.lm_head.weight.copy_(rows[draft_to_target])
    return changed


def save_head(head: Head, folder: Path) -> None:
    """Writes config.json and model.safetensors in bf16: beside the old folder first, and readers see one of the two."""
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    for stale in (partial, old):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "config.json").write_text(json.dumps(head.shape.config(), indent=2) + "\n", encoding="utf-8")
    tensors = {
        name: (tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in head.state_dict().items()
    }
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_head(folder: Path) -> Head:
    """A head from its folder, f32."""
    shape = HeadShape.from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    tensors = load_file(folder / "model.safetensors")
    if "d2t" not in tensors:
        raise ValueError(f"expected d2t in {folder}, got {sorted(tensors)}")
    head = Head(shape, tensors["d2t"] + torch.arange(len(tensors["d2t"])))
    head.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})
    return head
