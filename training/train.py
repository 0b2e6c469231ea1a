"""Stage 4 and 6: trains the target, or with --teacher the draft, on packed rows.

Resuming is exact: weights, optimiser, learning-rate position, random state and data position are in the checkpoint, and
nothing else decides the next step. On CUDA, sums whose order the hardware chooses may still differ in the last bits.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import checkpoint
from data import Batch, Documents, RowStream, joined
from evaluate import heldout_losses
from loop import Progress, arguments, begun, continued, finish
from losses import batch_loss
from model import Llama
from optimiser import Muon
from settings import Recipe, Role, Settings, Training


@dataclass
class Run:
    """Everything a training run holds; see loop.Run."""

    settings: Settings
    recipe: Recipe
    model: Llama
    backbone: Any
    optimiser: torch.optim.Optimizer
    streams: list[RowStream]
    rows: list[int]
    teacher: Llama | None
    heldout_text: Documents
    progress: Progress
    folder: Path

    @property
    def training(self) -> Training:
        return self.recipe.training

    def take_step(self) -> "StepReport":
        return train_step(self)

    def shown(self, report: "StepReport") -> str:
        divergence = f" kld {report.kld:.4f}" if report.kld else ""
        return (
            f"loss {report.loss:.4f} text {report.text:.4f}{divergence} norm {report.gradient_norm:.2f} "
            f"lr {report.lr:.2e}"
        )

    def heldout(self) -> dict[str, float]:
        n_tokens = self.settings.evaluation.heldout_tokens_per_domain
        return heldout_losses(self.model, self.heldout_text, self.training.context_len, n_tokens)

    def save(self) -> None:
        checkpoint.save(self.folder, state_of(self))


@dataclass(frozen=True)
class StepReport:
    """One step: losses in nats per counted target, before the update."""

    loss: float
    text: float
    kld: float
    gradient_norm: float
    lr: float
    n_tokens: int


def learning_rate(step: int, n_steps: int, training: Training) -> float:
    """Linear warm-up from 0, then half a cosine down to `lr_end_share * lr_max` at the last step."""
    if step < training.warmup_steps:
        return training.lr_max * (step + 1) / training.warmup_steps
    done = (step - training.warmup_steps) / max(1, n_steps - 1 - training.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return training.lr_max * (training.lr_end_share + (1.0 - training.lr_end_share) * cosine)


def optimiser_of(model: Llama, training: Training) -> Muon:
    """Decays matrices, not norms. The tied embedding is a matrix, but its rows are learned one by one, as by AdamW."""
    embedding = model.model.embed_tokens.weight
    inner = [p for p in model.parameters() if p.dim() > 1 and p is not embedding]
    return Muon(
        [
            {"params": inner, "weight_decay": training.weight_decay, "muon": True},
            {"params": [embedding], "weight_decay": training.weight_decay},
            {"params": [p for p in model.parameters() if p.dim() <= 1]},
        ]
    )


def train_step(run: Run) -> StepReport:
    """One update from `rows_per_step` rows, in micro-batches whose gradients add up to that of the whole."""
    training, device = run.training, run.model.device
    lr = learning_rate(run.progress.step, run.progress.n_steps, training)
    for group in run.optimiser.param_groups:
        group["lr"] = lr
    batch = joined([stream.next_rows(rows) for stream, rows in zip(run.streams, run.rows, strict=True)])
    # One norm for all micro-batches: a mean of means would favour rows with few counted targets.
    scale = 1.0 / float(batch.weights.sum())
    sums = torch.zeros(3, device=device)
    run.model.train()
    run.optimiser.zero_grad(set_to_none=True)
    for micro in shuffled(batch, run).split(training.micro_rows):
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            part = batch_loss(run.model, run.backbone, micro.to(device), run.teacher, training.teacher_share)
        (part.total * scale).backward()
        sums += torch.stack((part.total.detach(), part.text, part.kld)) * scale
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), training.gradient_norm_max)
    run.optimiser.step()
    n_tokens = batch.inputs.numel()
    run.progress.step += 1
    run.progress.n_tokens += n_tokens
    run.progress.positions = [stream.position for stream in run.streams]
    loss, text, kld = sums.tolist()
    if not math.isfinite(loss):
        raise SystemExit(f"loss is {loss} at step {run.progress.step}: lower lr_max or raise warmup_steps")
    return StepReport(loss, text, kld, float(norm), lr, n_tokens)


def shuffled(batch: Batch, run: Run) -> Batch:
    """Rows in random order, so that each micro-batch mixes the streams and costs about the same."""
    order = torch.randperm(len(batch.tokens), generator=torch.Generator().manual_seed(run.progress.step))
    return Batch(batch.tokens[order], batch.weights[order], batch.segments[order])


def identity(run: Run) -> str:
    """What must not change while a run goes on: seed, recipe and the size of its text."""
    n_tokens = [len(stream.documents.tokens) for stream in run.streams]
    return json.dumps({"seed": run.settings.seed, "recipe": asdict(run.recipe), "n_tokens": n_tokens})


def state_of(run: Run) -> dict[str, Any]:
    """What a checkpoint holds: tensors and plain values only."""
    state = {
        "identity": identity(run),
        "shape": asdict(run.model.shape),
        "model": run.model.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "progress": asdict(run.progress),
        "rng": torch.get_rng_state(),
    }
    return state | ({"rng_cuda": torch.cuda.get_rng_state()} if run.model.device.type == "cuda" else {})


def restore(run: Run) -> None:
    """Continues from the checkpoint of the folder; refuses another recipe or other text."""
    state = continued(run, identity(run), "another recipe")
    run.model.load_state_dict(state["model"])
    run.optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["rng"])
    if "rng_cuda" in state and run.model.device.type == "cuda":
        torch.cuda.set_rng_state(state["rng_cuda"])
    for stream, (epoch, row) in zip(run.streams, run.progress.positions, strict=True):
        stream.seek(epoch, row)


def prepared(args: argparse.Namespace, settings: Settings, device: torch.device) -> Run:
    """A fresh run, or the continued one if the folder has a checkpoint."""
    role: Role = args.role
    recipe = settings.recipe(role)
    training = recipe.training
    torch.manual_seed(settings.seed)
    model = Llama(recipe.shape).to(device)
    files = [args.data / "train.npz"] + ([args.samples] if args.samples else [])
    seeds = range(settings.seed, settings.seed + len(files))
    streams = [
        RowStream(Documents.load(file), training.context_len, training.prompt_weight, seed, training.talk_share)
        for file, seed in zip(files, seeds, strict=True)
    ]
    sampled = round(training.rows_per_step * training.samples_share) if args.samples else 0
    run = Run(
        settings=settings,
        recipe=recipe,
        model=model,
        backbone=torch.compile(model.model) if training.compile and device.type == "cuda" else model.model,
        optimiser=optimiser_of(model, training),
        streams=streams,
        rows=[training.rows_per_step - sampled] + ([sampled] if args.samples else []),
        teacher=checkpoint.load_model(args.teacher, device) if args.teacher else None,
        heldout_text=Documents.load(args.data / "heldout.npz"),
        progress=Progress(training.n_steps),
        folder=args.out,
    )
    if run.teacher and run.teacher.shape.vocab_size != model.shape.vocab_size:
        raise SystemExit(f"the teacher has {run.teacher.shape.vocab_size} tokens, expected {model.shape.vocab_size}")
    if checkpoint.exists(args.out):
        restore(run)
    elif args.init:
        begin_from(run.model, checkpoint.load_model(args.init, device), args.init)
    return run


def begin_from(model: Llama, earlier: Llama, folder: Path) -> None:
    """Takes the weights of a model of the same shape; refuses another."""
    if earlier.shape != model.shape:
        raise SystemExit(f"{folder} has shape {earlier.shape}, expected {model.shape}")
    model.load_state_dict(earlier.state_dict())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--role", choices=("target", "draft"), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and heldout.npz")
    parser.add_argument("--teacher", type=Path, help="run or model folder of the target, for the draft")
    parser.add_argument("--samples", type=Path, help="samples.npz of the target, for the draft")
    parser.add_argument("--init", type=Path, help="run or model folder whose weights a fresh run begins with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    begun(args)
    torch.set_float32_matmul_precision("high")
    settings = Settings.read(args.config)
    if settings.recipe(args.role).training.teacher_share > 0 and not args.teacher:
        raise SystemExit("this recipe has a teacher_share: give --teacher")
    run = prepared(args, settings, torch.device(args.device))
    print(
        f"{args.role}: {run.model.n_parameters} parameters, {run.streams[0].rows_per_epoch} rows per epoch, "
        f"step {run.progress.step} of {run.progress.n_steps}, {args.device}",
        flush=True,
    )
    finish(run, args)


if __name__ == "__main__":
    main()
