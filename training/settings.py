"""Settings of a run: one TOML file, checked and turned into frozen dataclasses before anything is computed."""

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from model import Shape

Role = Literal["target", "draft"]


@dataclass(frozen=True)
class Training:
    """How one model is trained; a step is one update of the weights."""

    context_len: int
    rows_per_step: int
    micro_rows: int
    n_steps: int
    lr_max: float
    warmup_steps: int
    precision: Literal["f32", "bf16"]
    # The cosine ends at this share of lr_max.
    lr_end_share: float = 0.05
    weight_decay: float = 0.1
    gradient_norm_max: float = 1.0
    compile: bool = False
    # Weight of prompt tokens in the loss; 0 learns responses only.
    prompt_weight: float = 0.0
    # Share of KL(target || draft) in the loss of a draft; the rest is the loss on the text itself.
    teacher_share: float = 0.0
    # Share of the rows of a step that come from the target's own samples.
    samples_share: float = 0.0
    # Share of the rows in which a document sees the earlier ones, as a later turn sees the conversation.
    talk_share: float = 0.0
    checkpoint_every_steps: int = 200
    heldout_every_steps: int = 200

    def __post_init__(self) -> None:
        if self.rows_per_step % self.micro_rows:
            raise ValueError(f"rows_per_step {self.rows_per_step} is not a multiple of micro_rows {self.micro_rows}")
        for name in ("teacher_share", "samples_share", "lr_end_share", "prompt_weight", "talk_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.precision not in ("f32", "bf16"):
            raise ValueError(f"precision must be f32 or bf16, got {self.precision!r}")
        if not 0 < self.warmup_steps < self.n_steps:
            raise ValueError(f"warmup_steps must lie in 1..{self.n_steps - 1}, got {self.warmup_steps}")


@dataclass(frozen=True, kw_only=True)
class FromFeatures:
    """What trainings on the features of a target share; a step is one update from `documents_per_step` answers."""

    documents_per_step: int
    n_steps: int
    lr_max: float
    warmup_steps: int
    # The cosine ends at this share of lr_max.
    lr_end_share: float = 0.02
    weight_decay: float = 0.1
    gradient_norm_max: float = 1.0
    # Share of the documents that is never learned from.
    heldout_share: float = 0.02
    checkpoint_every_steps: int = 100
    heldout_every_steps: int = 100

    def __post_init__(self) -> None:
        if not 0.0 < self.heldout_share < 1.0:
            raise ValueError(f"heldout_share must lie between 0 and 1, got {self.heldout_share}")
        if not 0 < self.warmup_steps < self.n_steps:
            raise ValueError(f"warmup_steps must lie in 1..{self.n_steps - 1}, got {self.warmup_steps}")


@dataclass(frozen=True)
class Sampling:
    """How the target's own text is drawn for the draft: at temperature 1, which it must match, and greedily."""

    n_prompts: int
    new_tokens: int
    batch: int
    # Share of the batches drawn at temperature 0: what greedy requests will see.
    greedy_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.greedy_share <= 1.0:
            raise ValueError(f"greedy_share must lie in 0..1, got {self.greedy_share}")


@dataclass(frozen=True)
class Evaluation:
    """What the model card measures."""

    prompts_per_domain: int
    new_tokens: int
    heldout_tokens_per_domain: int
    # Tokens drafted per verification in the greedy simulation.
    chain_len: int


@dataclass(frozen=True)
class Recipe:
    """A model and its training."""

    shape: Shape
    training: Training

    def __post_init__(self) -> None:
        if self.training.context_len > self.shape.context_len:
            raise ValueError(
                f"training context {self.training.context_len} exceeds the model's context {self.shape.context_len}"
            )


@dataclass(frozen=True)
class Settings:
    """The whole file."""

    seed: int
    vocab_size: int
    target: Recipe
    draft: Recipe
    sampling: Sampling
    evaluation: Evaluation

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and checks a TOML file; unknown and missing keys are errors."""
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        vocab_size = raw["vocab_size"]

        def recipe(role: Role) -> Recipe:
            shape = build(Shape, {"vocab_size": vocab_size, **raw[role]["shape"]})
            return Recipe(shape, build(Training, raw[role]["training"]))

        return cls(
            seed=raw["seed"],
            vocab_size=vocab_size,
            target=recipe("target"),
            draft=recipe("draft"),
            sampling=build(Sampling, raw["sampling"]),
            evaluation=build(Evaluation, raw["evaluation"]),
        )

    def recipe(self, role: Role) -> Recipe:
        return self.target if role == "target" else self.draft

    def plain(self) -> dict[str, Any]:
        """The settings as nested dictionaries, for checkpoints and cards."""
        return asdict(self)


def build(kind: type, values: dict[str, Any]) -> Any:
    """A dataclass from a table; says which keys are wrong."""
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown keys {unknown} for {kind.__name__}; known: {sorted(known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
