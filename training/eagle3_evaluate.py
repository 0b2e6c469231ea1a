"""EAGLE-3, stage 4: what a head is worth, by domain, on answers it never learned from; writes the card.

Temperature 0: chains of CHAIN_LEN drafts walk through the target's greedy answers as in a server: a verification keeps
the drafts before the first mismatch, the target adds one token, and the next chain begins behind it. The tokens a chain
reads are those of the text, which are its own drafts as long as they count. Temperature 1: the probability that
rejection sampling keeps a draft, 1 - TV(target, head) over the whole vocabulary, at the same positions.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import card
import checkpoint
from acceptance import CHAIN_LEN, arguments, judged_answers, parsed, report
from eagle3_chains import Batch, batch_of, chain_hidden
from eagle3_features import Features, load_features
from eagle3_head import Head, load_head

# Documents evaluated together, and positions whose full distributions exist at one time.
DOCUMENTS_AT_ONCE, POSITIONS_AT_ONCE = 8, 512


@dataclass(frozen=True)
class DomainFigures:
    """Figures of a domain.

    n_steps: verifications walked; accepted_per_step: drafts kept per verification, 0..CHAIN_LEN; kept: how many
    verifications kept 0, 1, … drafts; alpha: share of right drafts at each place of the chain, given that those before
    were right; sampled_alpha: 1 - TV at each place, given a right prefix; sampled_per_step: what a verification at
    temperature 1 would keep if places were independent; covered: share of the answers in the reduced vocabulary.
    """

    n_documents: int
    n_tokens: int
    n_steps: int
    accepted_per_step: float
    kept: list[int]
    alpha: list[float]
    sampled_alpha: list[float]
    sampled_per_step: float
    covered: float


@dataclass(frozen=True)
class Judged:
    """Starts of a batch: which drafts were right, and what rejection sampling keeps; both [n_starts, CHAIN_LEN]."""

    is_right: Tensor
    overlap: Tensor


def judged(head: Head, embeddings: Tensor, batch: Batch) -> Judged:
    """All chains of a batch; places without a token of the text count as wrong."""
    outputs = chain_hidden(head, embeddings[batch.tokens], batch, CHAIN_LEN)
    is_right = torch.zeros(len(batch.start_rows), CHAIN_LEN, dtype=torch.bool)
    overlap = torch.zeros(len(batch.start_rows), CHAIN_LEN)
    for step, output in enumerate(outputs):
        starts = batch.step_starts(step)
        logits = F.linear(head.norm(output[starts]), head.lm_head.weight)
        is_right[starts, step] = head.draft_to_target[logits.argmax(-1)] == batch.foreseen(step)
        overlap[starts, step] = overlaps(head, embeddings, batch.last[starts + step], logits)
    return Judged(is_right, overlap)


def overlaps(head: Head, output_rows: Tensor, last: Tensor, logits: Tensor) -> Tensor:
    """sum min(p, q) = 1 - TV of the target's whole distribution p and the head's q, [n]; tokens q lacks add nothing."""
    shared = []
    for part, q in zip(last.split(POSITIONS_AT_ONCE), logits.split(POSITIONS_AT_ONCE), strict=True):
        p = F.linear(part, output_rows).softmax(-1)[:, head.draft_to_target]
        shared.append(torch.minimum(p, q.softmax(-1)).sum(-1))
    return torch.cat(shared)


def walked(is_right: Tensor, room: Tensor) -> list[int]:
    """Drafts kept by each verification of one answer: is_right [n_starts, CHAIN_LEN] of its starts in order.

    Only whole chains count: near the end of a recorded answer nobody knows what the target would have said.
    """
    kept, start = [], 0
    runs = is_right.long().cumprod(-1).sum(-1).tolist()
    while start < len(runs) and int(room[start]) >= CHAIN_LEN:
        kept.append(runs[start])
        start += runs[start] + 1
    return kept


def figures(head: Head, embeddings: Tensor, features: Features) -> DomainFigures:
    """All documents of a part."""
    answers = judged_answers(features.documents)
    kept: list[int] = []
    right, overlap, room = [], [], []
    for start in range(0, len(answers.chosen), DOCUMENTS_AT_ONCE):
        batch = batch_of([(features, i) for i in answers.chosen[start : start + DOCUMENTS_AT_ONCE]], embeddings.device)
        result = judged(head, embeddings, batch)
        answer = batch.start_slots // batch.starts_max
        for document in range(batch.n_documents):
            kept += walked(result.is_right[answer == document], batch.room[answer == document])
        right.append(result.is_right)
        overlap.append(result.overlap)
        room.append(batch.room)
    alpha, sampled_alpha = by_place(torch.cat(right), torch.cat(overlap), torch.cat(room))
    return DomainFigures(
        n_documents=len(answers.chosen),
        n_tokens=len(answers.tokens),
        n_steps=len(kept),
        accepted_per_step=sum(kept) / max(1, len(kept)),
        kept=[kept.count(n) for n in range(CHAIN_LEN + 1)],
        alpha=alpha,
        sampled_alpha=sampled_alpha,
        sampled_per_step=sum(torch.tensor(sampled_alpha).cumprod(0).tolist()),
        covered=float(head.t2d[answers.tokens].float().mean()),
    )


def by_place(is_right: Tensor, overlap: Tensor, room: Tensor) -> tuple[list[float], list[float]]:
    """Shares of right drafts and mean overlaps at each place of all chains, given a right prefix."""
    alpha, sampled = [], []
    reached = torch.ones(len(room), dtype=torch.bool)
    for place in range(CHAIN_LEN):
        here = reached & (room > place)
        alpha.append(float(is_right[here, place].float().mean()) if here.any() else 0.0)
        sampled.append(float(overlap[here, place].mean()) if here.any() else 0.0)
        reached = here & is_right[:, place]
    return alpha, sampled


def table(by_domain: dict[str, DomainFigures]) -> str:
    """The figures as Markdown."""
    places = range(1, CHAIN_LEN + 1)
    head = ["domain", "accepted per step", *(f"n-α {n}" for n in places), *(f"1 - TV {n}" for n in places)]
    head += ["T = 1 per step", f"kept 0..{CHAIN_LEN}", "covered", "answers", "tokens"]
    rows = []
    for domain, f in by_domain.items():
        cells = [domain, f"{f.accepted_per_step:.2f}", *(f"{a:.3f}" for a in f.alpha)]
        cells += [*(f"{a:.3f}" for a in f.sampled_alpha), f"{f.sampled_per_step:.2f}"]
        cells += [" / ".join(map(str, f.kept)), f"{f.covered:.4f}", str(f.n_documents), str(f.n_tokens)]
        rows.append(cells)
    return card.table(head, rows)


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--head", type=Path, required=True, help="head folder")
    parser.add_argument("--features", type=Path, required=True, help="one part per domain, DOMAIN.npz")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parsed(parser)

    device = torch.device(args.device)
    target = checkpoint.load_model(args.target, device)
    head = load_head(args.head).to(device).eval()
    embeddings = target.model.embed_tokens.weight
    by_domain = {
        path.stem: figures(head, embeddings, load_features(path, target.shape.hidden_size))
        for path in sorted(args.features.glob("*.npz"))
    }
    report(table(by_domain), by_domain, args.out)


if __name__ == "__main__":
    main()
