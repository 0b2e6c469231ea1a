"""Settings of a head's training: one TOML file, checked before anything is computed."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from settings import FromFeatures, build


@dataclass(frozen=True, kw_only=True)
class HeadTraining(FromFeatures):
    """Of a head: chains of steps."""

    # Weight of each step of a chain in the loss; their number is the length of the chains.
    step_weights: list[float]
    # Whether chains start in prompts too: more to learn from, though not in the target's own words.
    from_prompts: bool = False
    # Learning rate of `fc` beside that of the layer: no norm scales the streams it reads, so that they are large.
    streams_lr_share: float = 0.3
    # Learning rate of the output rows beside that of the layer.
    output_lr_share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step_weights or min(self.step_weights) < 0.0 or not self.step_weights[0]:
            raise ValueError(f"expected weights of at least one step, the first above 0, got {self.step_weights}")


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
