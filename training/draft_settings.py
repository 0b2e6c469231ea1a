"""Settings of a small draft's training: one TOML file, checked before anything is computed."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from settings import build


@dataclass(frozen=True)
class DraftShape:
    """Sizes of the draft; heads, positions and context are the target's."""

    vocab_size: int
    hidden_size: int
    ff_size: int
    # Which layers of the target, counted from 0, those of the draft begin as.
    layers: list[int]


@dataclass(frozen=True)
class DraftTraining:
    """A step is one update of the weights from `documents_per_step` prompts with their answers."""

    documents_per_step: int
    n_steps: int
    lr_max: float
    warmup_steps: int
    # What a place in a prompt counts beside one in an answer; 0 learns from answers only.
    prompt_weight: float = 0.5
    # The cosine ends at this share of lr_max.
    lr_end_share: float = 0.02
    # Learning rate of the embeddings, which are the output rows too, beside that of the layers.
    embedding_lr_share: float = 0.5
    weight_decay: float = 0.1
    gradient_norm_max: float = 1.0
    # Share of the documents that is never learned from.
    heldout_share: float = 0.02
    checkpoint_every_steps: int = 100
    heldout_every_steps: int = 100

    def __post_init__(self) -> None:
        if not 0.0 <= self.prompt_weight <= 1.0:
            raise ValueError(f"prompt_weight must lie in 0..1, got {self.prompt_weight}")
        if not 0.0 < self.heldout_share < 1.0:
            raise ValueError(f"heldout_share must lie between 0 and 1, got {self.heldout_share}")
        if not 0 < self.warmup_steps < self.n_steps:
            raise ValueError(f"warmup_steps must lie in 1..{self.n_steps - 1}, got {self.warmup_steps}")


@dataclass(frozen=True)
class DraftSettings:
    """The whole file."""

    seed: int
    shape: DraftShape
    training: DraftTraining

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and checks a TOML file; unknown and missing keys are errors."""
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        parts = {"shape": build(DraftShape, raw["shape"]), "training": build(DraftTraining, raw["training"])}
        return build(cls, raw | parts)
