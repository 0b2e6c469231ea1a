"""EAGLE-3, stage 3: trains a head on the features of stage 2, and writes it in the published format as it learns.

Resuming is exact, as in train.py: weights, optimiser, data position and learning-rate position are in the checkpoint.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import checkpoint
from data import Documents
from eagle3_chains import Batch, batch_of
from eagle3_features import Features, load_all_features
from eagle3_head import Head, StreamSizes, fresh_head, load_head, save_head, with_vocabulary
from eagle3_loss import ChainLoss, chain_loss
from eagle3_settings import HeadSettings, HeadTraining
from loop import Progress, arguments, begun, continued, finish
from model import Llama
from optimiser import Muon
from train import learning_rate

# Tokens of streams from which their sizes are measured.
MEASURED_TOKENS = 4096

Item = tuple[Features, int]


def reduced_vocabulary(parts: list[Documents], vocab_size: int, size: int) -> Tensor:
    """The `size` tokens the target says most often, ascending; where it says fewer, those of the prompts follow."""
    said, read = np.zeros(vocab_size, dtype=np.int64), np.zeros(vocab_size, dtype=np.int64)
    for documents in parts:
        for i in range(len(documents)):
            np.add.at(said, documents.answer(i), 1)
            np.add.at(read, documents[i], 1)
    order = np.lexsort((np.arange(vocab_size), -read, -said))
    return torch.from_numpy(np.sort(order[:size]))


def coverage(parts: list[Documents], draft_to_target: Tensor) -> float:
    """The share of what the target says that the reduced vocabulary has."""
    said = np.concatenate([d.answer(i) for d in parts for i in range(len(d))])
    return float(np.isin(said, draft_to_target.numpy()).mean())


def stream_sizes(parts: list[Features], final_norm: Tensor) -> StreamSizes:
    """Sizes over some documents; first tokens, whose streams are far larger than others, are left out."""
    some = torch.cat([part.of(i)[1:] for part in parts[:4] for i in range(min(8, len(part.documents)))])
    some = some[:MEASURED_TOKENS].float()
    squares = some.square().mean((0, 2))
    high_normed = (some[:, 2] * final_norm).square().mean().sqrt()
    return StreamSizes(squares[:3].sqrt(), float(high_normed), float(squares[3].sqrt()))


@dataclass
class DocumentStream:
    """Batches without end: each epoch goes through the documents in an order of its own."""

    items: list[Item]
    per_batch: int
    seed: int
    epoch: int = 0
    taken: int = 0

    def next_items(self) -> list[Item]:
        """A batch; the rest of an epoch that fills none is left out."""
        if self.taken + self.per_batch > len(self.items):
            self.epoch, self.taken = self.epoch + 1, 0
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.items))
        chosen = order[self.taken : self.taken + self.per_batch]
        self.taken += self.per_batch
        return [self.items[i] for i in chosen]


@dataclass
class HeadRun:
    """Everything a run holds; see loop.Run."""

    settings: HeadSettings
    head: Head
    # Of the target: embeddings of all tokens, and the output rows of the reduced vocabulary.
    embeddings: Tensor
    output_rows: Tensor
    optimiser: Muon
    stream: DocumentStream
    heldout_items: list[Item]
    progress: Progress
    folder: Path
    export: Path | None = None
    # Multiply in bf16; weights, streams and averages stay f32.
    is_bf16: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def training(self) -> HeadTraining:
        return self.settings.training

    def take_step(self) -> "StepReport":
        return train_step(self)

    def shown(self, report: "StepReport") -> str:
        agreement = " ".join(f"{share:.3f}" for share in report.agreement)
        return f"loss {report.loss:.4f} agree {agreement} norm {report.gradient_norm:.2f} lr {report.lr:.2e}"

    def heldout(self) -> dict[str, Any]:
        return heldout_report(self)

    def save(self) -> None:
        checkpoint.save(self.folder, state_of(self))
        if self.export:
            save_head(self.head, self.export)


@dataclass(frozen=True)
class StepReport:
    """One step before its update: loss in nats per prediction, agreement with the target by step of the chain."""

    loss: float
    agreement: list[float]
    gradient_norm: float
    lr: float
    n_starts: int


def optimiser_of(head: Head, settings: HeadSettings, is_bf16: bool = False) -> Muon:
    """Orthogonal updates for the layer; the output rows are learned one by one, and slowly."""
    training = settings.training
    head.lm_head.requires_grad_(training.output_lr_share > 0)
    matrices = {"weight_decay": training.weight_decay, "muon": True}
    return Muon(
        [
            {"params": [head.fc.weight], "lr_share": training.streams_lr_share} | matrices,
            {"params": [p for p in head.midlayer.parameters() if p.dim() > 1], "lr_share": 1.0} | matrices,
            {"params": [head.lm_head.weight], "lr_share": training.output_lr_share},
            {"params": [p for p in head.parameters() if p.dim() <= 1], "lr_share": 1.0},
        ],
        is_bf16,
    )


def loss_of(run: HeadRun, batch: Batch) -> ChainLoss:
    step_weights = run.settings.training.step_weights
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.is_bf16):
        return chain_loss(run.head, run.embeddings[batch.tokens], run.output_rows, batch, step_weights)


def train_step(run: HeadRun) -> StepReport:
    """One update."""
    training = run.training
    lr = learning_rate(run.progress.step, run.progress.n_steps, training)
    for group in run.optimiser.param_groups:
        group["lr"] = lr * group["lr_share"]
    batch = batch_of(run.stream.next_items(), run.device, training.from_prompts)
    run.optimiser.zero_grad(set_to_none=True)
    loss = loss_of(run, batch)
    loss.total.backward()
    norm = torch.nn.utils.clip_grad_norm_(run.head.parameters(), training.gradient_norm_max)
    run.optimiser.step()
    run.progress.step += 1
    run.progress.n_tokens += len(batch.start_rows)
    run.progress.positions = [(run.stream.epoch, run.stream.taken)]
    report = StepReport(float(loss.total.detach()), loss.agreement, float(norm), lr, len(batch.start_rows))
    if not math.isfinite(report.loss):
        raise SystemExit(f"loss is {report.loss} at step {run.progress.step}: lower lr_max or raise warmup_steps")
    return report


@torch.no_grad()
def heldout_report(run: HeadRun) -> dict[str, Any]:
    """Loss and agreement by step of the chain on documents that are never learned from."""
    losses, agreements, counts = [], [], []
    for items in in_batches(run.heldout_items, run.settings.training.documents_per_step):
        batch = batch_of(items, run.device)
        loss = loss_of(run, batch)
        losses.append(float(loss.total))
        agreements.append(loss.agreement)
        counts.append(len(batch.start_rows))
    by_step = np.average(agreements, axis=0, weights=counts)
    return {
        "loss": round(float(np.average(losses, weights=counts)), 4),
        "agreement": [round(float(a), 4) for a in by_step],
    }


def in_batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def identity(run: HeadRun) -> str:
    """What must not change while a run goes on: its settings and the size of its text."""
    n_documents = len(run.stream.items) + len(run.heldout_items)
    return json.dumps({"settings": asdict(run.settings), "n_documents": n_documents})


def state_of(run: HeadRun) -> dict[str, Any]:
    """What a checkpoint holds: tensors and plain values only."""
    return {
        "identity": identity(run),
        "head": run.head.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "progress": asdict(run.progress),
    }


def restore(run: HeadRun) -> None:
    """Continues from the checkpoint of the folder; refuses other settings or other text."""
    state = continued(run, identity(run), "other settings")
    run.head.load_state_dict(state["head"])
    run.optimiser.load_state_dict(state["optimiser"])
    ((run.stream.epoch, run.stream.taken),) = run.progress.positions


def split(parts: list[Features], heldout_share: float) -> tuple[list[Item], list[Item]]:
    """Documents with chains: those to learn from and those held out, evenly spread."""
    items = [(part, i) for part in parts for i in range(len(part.documents)) if part.documents.has_chain(i)]
    every = max(2, round(1.0 / heldout_share))
    return [item for n, item in enumerate(items) if n % every], items[::every]


def prepared(args: argparse.Namespace, settings: HeadSettings, target: Llama) -> HeadRun:
    """A fresh run, or the continued one if the folder has a checkpoint."""
    device = target.device
    parts = load_all_features(args.features, target.shape.hidden_size)
    texts = [part.documents for part in parts]
    torch.manual_seed(settings.seed)
    chosen = reduced_vocabulary(texts, target.shape.vocab_size, settings.draft_vocab_size)
    target.cpu()
    if args.init:
        head = with_vocabulary(load_head(args.init), target, chosen)
    else:
        head = fresh_head(target, chosen, stream_sizes(parts, target.model.norm.weight))
    target.to(device)
    print(f"reduced vocabulary: {coverage(texts, head.draft_to_target):.4f} of the answers", flush=True)
    head.to(device)
    learned, heldout = split(parts, settings.training.heldout_share)
    embeddings = target.model.embed_tokens.weight
    run = HeadRun(
        settings=settings,
        head=head,
        embeddings=embeddings,
        output_rows=embeddings[head.draft_to_target],
        optimiser=optimiser_of(head, settings, args.bf16),
        stream=DocumentStream(learned, settings.training.documents_per_step, settings.seed),
        heldout_items=heldout,
        progress=Progress(settings.training.n_steps),
        folder=args.out,
        export=args.export,
        is_bf16=args.bf16,
        device=device,
    )
    if checkpoint.exists(args.out):
        restore(run)
    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--target", type=Path, required=True, help="Hugging Face folder of the target")
    parser.add_argument("--features", type=Path, required=True, help="folder written by eagle3_features.py")
    parser.add_argument("--export", type=Path, help="write the head here at every checkpoint")
    parser.add_argument("--init", type=Path, help="head folder whose weights a fresh run begins with")
    parser.add_argument("--bf16", action="store_true", help="multiply in bf16: faster where the processor has it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    begun(args)
    settings = HeadSettings.read(args.config)
    run = prepared(args, settings, checkpoint.load_model(args.target, torch.device(args.device)))
    print(
        f"{run.head.n_parameters} parameters, {len(run.stream.items)} documents, {len(run.heldout_items)} held out, "
        f"step {run.progress.step} of {run.progress.n_steps}, {args.device}",
        flush=True,
    )
    finish(run, args)


if __name__ == "__main__":
    main()
