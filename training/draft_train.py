"""A draft with keys and values of its own, distilled from the features that eagle3_features.py wrote of its target.

Loss: cross-entropy against the target's distribution over the draft's tokens, at every token of answers and, with
another weight, of prompts. Resuming is exact, as in train.py.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import checkpoint
from draft_fresh import fresh_draft
from draft_settings import DraftSettings, DraftTraining
from draft_vocabulary import Vocabulary, counts, vocabulary_of
from eagle3_features import load_all_features
from eagle3_loss import SoftCrossEntropy, distributions
from eagle3_train import DocumentStream, Item, in_batches, split
from loop import Progress, arguments, begun, continued, finish
from model import Llama
from optimiser import Muon
from train import learning_rate

# Documents that run through the layers together; those of like length, so that little is padding.
DOCUMENTS_AT_ONCE = 4


@dataclass(frozen=True)
class Places:
    """Where a batch is learned from.

    tokens: one i64 [documents, rows] per group of documents, the draft's ids, padded at their ends; rows: per group,
    i64 [n], into the flat [documents * rows]; last: f32 [m, hidden_size of the target], behind its final norm, m the
    sum of all n; weights: f32 [m]; is_answer: bool [m].
    """

    tokens: list[Tensor]
    rows: list[Tensor]
    last: Tensor
    weights: Tensor
    is_answer: Tensor


def places_of(items: list[Item], reads: Tensor, prompt_weight: float) -> Places:
    """Documents as groups of like length; what counts foresees a token of an answer, or of a prompt if it weighs."""
    ordered = sorted(items, key=lambda item: len(item[0].documents[item[1]]))
    tokens, rows, last, weights, answers = [], [], [], [], []
    for group in in_batches(ordered, DOCUMENTS_AT_ONCE):
        lengths = [len(part.documents[i]) for part, i in group]
        padded = torch.zeros(len(group), max(lengths) - 1, dtype=torch.long)
        chosen = []
        for row, ((part, i), length) in enumerate(zip(group, lengths, strict=True)):
            # The last token foresees nothing that the text knows.
            padded[row, : length - 1] = reads[torch.from_numpy(part.documents[i][:-1].astype("int64"))]
            first_answer = int(part.documents.prompt_lens[i]) - 1
            # The first token foresees too, but its hidden state is unlike all others.
            first = 1 if prompt_weight > 0.0 else first_answer
            places = torch.arange(first, length - 1)
            is_answer = places >= first_answer
            chosen.append(row * padded.shape[1] + places)
            last.append(part.of(i)[places, -1])
            weights.append(torch.where(is_answer, 1.0, prompt_weight))
            answers.append(is_answer)
        tokens.append(padded)
        rows.append(torch.cat(chosen))
    return Places(tokens, rows, torch.cat(last).float(), torch.cat(weights), torch.cat(answers))


@dataclass(frozen=True)
class StepReport:
    """One step before its update: loss in nats per place, agreement with the target's first choice in answers."""

    loss: float
    agreement: float
    gradient_norm: float
    lr: float


@dataclass
class DraftRun:
    """Everything a run holds; see loop.Run."""

    settings: DraftSettings
    draft: Llama
    vocabulary: Vocabulary
    # The target's output rows for the draft's tokens, f32 [draft_vocab_size, hidden_size].
    output_rows: Tensor
    optimiser: Muon
    stream: DocumentStream
    heldout_items: list[Item]
    progress: Progress
    folder: Path
    # Multiply in bf16; weights, streams and averages stay f32.
    is_bf16: bool = False

    @property
    def training(self) -> DraftTraining:
        return self.settings.training

    def loss(self, places: Places) -> tuple[Tensor, float]:
        """Mean cross-entropy, and the share of the places in answers where draft and target choose the same token."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_bf16):
            backbone = self.draft.model
            hidden = torch.cat(
                [backbone(t).flatten(0, 1)[rows] for t, rows in zip(places.tokens, places.rows, strict=True)]
            )
            total, agrees = SoftCrossEntropy.apply(
                hidden.float(),
                backbone.embed_tokens.weight,
                distributions(self.output_rows, places.last),
                places.weights / places.weights.sum(),
            )
        return total, float(agrees[places.is_answer].float().mean())

    def take_step(self) -> StepReport:
        training, progress = self.training, self.progress
        lr = learning_rate(progress.step, progress.n_steps, training)
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["lr_share"]
        places = places_of(self.stream.next_items(), self.vocabulary.reads, training.prompt_weight)
        self.optimiser.zero_grad(set_to_none=True)
        loss, agreement = self.loss(places)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.draft.parameters(), training.gradient_norm_max)
        self.optimiser.step()
        progress.step += 1
        progress.n_tokens += len(places.weights)
        progress.positions = [(self.stream.epoch, self.stream.taken)]
        report = StepReport(float(loss.detach()), agreement, float(norm), lr)
        if not math.isfinite(report.loss):
            raise SystemExit(f"loss is {report.loss} at step {progress.step}: lower lr_max or raise warmup_steps")
        return report

    def shown(self, report: StepReport) -> str:
        return f"loss {report.loss:.4f} agree {report.agreement:.3f} norm {report.gradient_norm:.2f} lr {report.lr:.2e}"

    @torch.no_grad()
    def heldout(self) -> dict[str, Any]:
        losses, agreements, counted = [], [], []
        for items in in_batches(self.heldout_items, self.training.documents_per_step):
            places = places_of(items, self.vocabulary.reads, 0.0)
            loss, agreement = self.loss(places)
            losses.append(float(loss))
            agreements.append(agreement)
            counted.append(len(places.weights))
        mean = {"loss": np.average(losses, weights=counted), "agreement": np.average(agreements, weights=counted)}
        return {name: round(float(value), 4) for name, value in mean.items()}

    def identity(self) -> str:
        """What must not change while a run goes on: its settings, its tokens and the size of its text."""
        n_documents = len(self.stream.items) + len(self.heldout_items)
        kept = self.vocabulary.draft_to_target
        tokens = int((kept * torch.arange(1, len(kept) + 1)).sum())
        return json.dumps({"settings": asdict(self.settings), "n_documents": n_documents, "tokens": tokens})

    def save(self) -> None:
        state = {
            "identity": self.identity(),
            # As in train.py, so that checkpoint.load_model reads it.
            "shape": asdict(self.draft.shape),
            "model": self.draft.state_dict(),
            "draft_to_target": self.vocabulary.draft_to_target,
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        checkpoint.save(self.folder, state)

    def restore(self) -> None:
        """Continues from the checkpoint of the folder; refuses other settings or other text."""
        state = continued(self, self.identity(), "other settings")
        self.draft.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        ((self.stream.epoch, self.stream.taken),) = self.progress.positions


def optimiser_of(draft: Llama, training: DraftTraining, is_bf16: bool) -> Muon:
    """Orthogonal updates for the layers; the embeddings are learned one by one."""
    embedding = draft.model.embed_tokens.weight
    matrices = [p for p in draft.parameters() if p.dim() > 1 and p is not embedding]
    return Muon(
        [
            {"params": matrices, "lr_share": 1.0, "weight_decay": training.weight_decay, "muon": True},
            {"params": [embedding], "lr_share": training.embedding_lr_share},
            {"params": [p for p in draft.parameters() if p.dim() <= 1], "lr_share": 1.0},
        ],
        is_bf16,
    )


def prepared(args: argparse.Namespace, settings: DraftSettings, target: Llama) -> DraftRun:
    """A fresh run, or the continued one if the folder has a checkpoint."""
    parts = load_all_features(args.features, target.shape.hidden_size)
    texts, shape, training = [part.documents for part in parts], settings.shape, settings.training
    torch.manual_seed(settings.seed)
    vocabulary = vocabulary_of(args.target, texts, target.shape.vocab_size, shape.vocab_size)
    kept = vocabulary.draft_to_target
    weights = torch.from_numpy(counts(texts, target.shape.vocab_size)).float()[kept].sqrt()
    draft = fresh_draft(target, kept, weights, shape.layers, shape.hidden_size, shape.ff_size, parts[0])
    learned, heldout = split(parts, training.heldout_share)
    run = DraftRun(
        settings=settings,
        draft=draft,
        vocabulary=vocabulary,
        output_rows=target.model.embed_tokens.weight[kept],
        optimiser=optimiser_of(draft, training, args.bf16),
        stream=DocumentStream(learned, training.documents_per_step, settings.seed),
        heldout_items=heldout,
        progress=Progress(training.n_steps),
        folder=args.out,
        is_bf16=args.bf16,
    )
    if checkpoint.exists(args.out):
        run.restore()
    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--target", type=Path, required=True, help="Hugging Face folder of the target")
    parser.add_argument("--features", type=Path, required=True, help="folder written by eagle3_features.py")
    parser.add_argument("--bf16", action="store_true", help="multiply in bf16: faster where the processor has it")
    args = parser.parse_args()

    begun(args)
    settings = DraftSettings.read(args.config)
    run = prepared(args, settings, checkpoint.load_model(args.target, torch.device("cpu")))
    print(
        f"{run.draft.n_parameters} parameters, {len(run.stream.items)} documents, {len(run.heldout_items)} held out, "
        f"step {run.progress.step} of {run.progress.n_steps}",
        flush=True,
    )
    finish(run, args)


if __name__ == "__main__":
    main()
