"""Settings of a head's training: one TOML file, checked before anything is computed."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from settings import build


@dataclass(frozen=True)
class HeadTraining:
    """A step is one update of the weights from `documents_per_step` prompts with their answers."""

    documents_per_step: int
    n_steps: int
    lr_max: float
    warmup_steps: int
    # Weight of each step of a chain in the loss; their number is the length of the chains.
    step_weights: list[float]
    # Whether chains start in prompts too: more to learn from, though not in the target's own words.
    from_prompts: bool = False
    # The cosine ends at this share of lr_max.
    lr_end_share: float = 0.02
    # Learning rate of `fc` beside that of the layer: no norm scales the streams it reads, so that they are large.
    streams_lr_share: float = 0.3
    # Learning rate of the output rows beside that of the layer.
    output_lr_share: float = 0.25
    weight_decay: float = 0.1
    gradient_norm_max: float = 1.0
    # Share of the documents that is never learned from.
    heldout_share: float = 0.02
    checkpoint_every_steps: int = 100
    heldout_every_steps: int = 100

    def __post_init__(self) -> None:
        if not self.step_weights or min(self.step_weights) < 0.0 or not self.step_weights[0]:
            raise ValueError(f"expected weights of at least one step, the first above 0, got {self.step_weights}")
        if not 0.0 < self.heldout_share < 1.0:
            raise ValueError(f"heldout_share must lie between 0 and 1, got {self.heldout_share}")
        if not 0 < self.warmup_steps < self.n_steps:
            raise ValueError(f"warmup_steps must lie in 1..{self.n_steps - 1}, got {self.warmup_steps}")


@dataclass(frozen=True)
class HeadSettings:
    """The whole file."""

    seed: int
    draft_vocab_size: int
    training: HeadTraining

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and checks a TOML file; unknown and missing keys are errors."""
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        return build(cls, raw | {"training": build(HeadTraining, raw["training"])})
