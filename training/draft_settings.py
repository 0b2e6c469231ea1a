"""Settings of a small draft's training: one TOML file, checked before anything is computed."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from settings import FromFeatures, build


@dataclass(frozen=True)
class DraftShape:
    """Sizes of the draft; heads, positions and context are the target's."""

    vocab_size: int
    hidden_size: int
    ff_size: int
    # Which layers of the target, counted from 0, those of the draft begin as.
    layers: list[int]


@dataclass(frozen=True, kw_only=True)
class DraftTraining(FromFeatures):
    """Of a draft: every token at once."""

    # What a place in a prompt counts beside one in an answer; 0 learns from answers only.
    prompt_weight: float = 0.5
    # Learning rate of the embeddings, which are the output rows too, beside that of the layers.
    embedding_lr_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.prompt_weight <= 1.0:
            raise ValueError(f"prompt_weight must lie in 0..1, got {self.prompt_weight}")


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
