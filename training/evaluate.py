"""Stage 7: how well the pair models held-out text, and how well the draft agrees with the target; writes a model card.

Greedy speculation needs no drafting to be simulated: as long as all earlier drafted tokens were kept, the draft reads
the target's own text, so a chain is kept exactly as far as the draft's likeliest token equals the target's next one.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

import card
import checkpoint
from data import Documents, Piece, assembled, packed, pieces
from losses import batch_loss, kld, overlap
from model import Llama
from records import DOMAINS
from sample import batches, generate, prompt_of
from settings import Settings
from tokenizer import stop_ids

# Rows evaluated at once.
HELDOUT_ROWS = 8


@dataclass(frozen=True)
class Agreement:
    """Draft against target on the target's own answers in one domain.

    Greedy: chains of up to `chain_len` drafted tokens over the target's greedy answers; `runs[a]` counts the
    verifications that kept a tokens. Sampled: positions of the target's answers at temperature 1; KLD in nats.
    """

    acceptance_rate: float
    emitted_per_step: float
    runs: list[int]
    overlap_mean: float
    kld_mean: float
    kld_variance: float
    n_positions: int


@torch.no_grad()
def heldout_losses(model: Llama, documents: Documents, context_len: int, tokens_max: int) -> dict[str, float]:
    """Nats per counted token of each domain that has held-out text, the same rows at every call."""
    model.eval()
    losses = {}
    for domain in DOMAINS:
        rows = list(heldout_rows(documents, domain, context_len, tokens_max))
        total, weight = 0.0, 0.0
        for start in range(0, len(rows), HELDOUT_ROWS):
            batch = assembled(documents, rows[start : start + HELDOUT_ROWS], context_len, 0.0).to(model.device)
            total += float(batch_loss(model, model.model, batch).text)
            weight += float(batch.weights.sum())
        if weight > 0:
            losses[domain] = round(total / weight, 4)
    return losses


def heldout_rows(documents: Documents, domain: str, context_len: int, tokens_max: int) -> Iterator[list[Piece]]:
    """Packed rows of the first documents of a domain, about `tokens_max` tokens."""
    chosen, n_tokens = [], 0
    for i in documents.of_domain(domain):
        if n_tokens >= tokens_max:
            break
        chosen.append(i)
        n_tokens += len(documents[i])
    yield from packed(pieces(documents, chosen, context_len + 1), context_len + 1)


@dataclass(frozen=True)
class Chain:
    """One verification: of `drafted` tokens the first `kept` were right, `emitted` tokens were won."""

    drafted: int
    kept: int
    emitted: int


def chains(matches: list[bool], chain_len: int) -> list[Chain]:
    """Successive verifications of one answer; `matches[i]`: the draft foresaw token i.

    A verification emits what it kept and one token of the target; near the end the answer bounds both.
    """
    found, at = [], 0
    while at < len(matches):
        drafted = min(chain_len, len(matches) - at)
        kept = 0
        while kept < drafted and matches[at + kept]:
            kept += 1
        emitted = min(kept + 1, len(matches) - at)
        found.append(Chain(drafted, kept, emitted))
        at += emitted
    return found


@torch.inference_mode()
def answer_logits(model: Llama, prompt: list[int], answer: list[int]) -> Tensor:
    """Logits [len(answer), vocab] that predict each token of an answer."""
    tokens = torch.tensor([prompt + answer[:-1]], device=model.device)
    return model.logits(model.model(tokens)[0, len(prompt) - 1 :])


def answers(
    target: Llama, prompts: list[list[int]], settings: Settings, temperature: float, stops: set[int]
) -> list[list[int]]:
    generator = torch.Generator(target.device).manual_seed(settings.seed)
    return generate(target, prompts, settings.evaluation.new_tokens, temperature, generator, stops)


def agreement(target: Llama, draft: Llama, prompts: list[list[int]], settings: Settings, stops: set[int]) -> Agreement:
    """Measures one domain; see `Agreement`."""
    chain_len = settings.evaluation.chain_len
    verified: list[Chain] = []
    for prompt, answer in zip(prompts, answers(target, prompts, settings, 0.0, stops), strict=True):
        guesses = answer_logits(draft, prompt, answer).argmax(-1).tolist()
        verified += chains([guess == token for guess, token in zip(guesses, answer, strict=True)], chain_len)
    overlaps, klds = [], []
    for prompt, answer in zip(prompts, answers(target, prompts, settings, 1.0, stops), strict=True):
        log_p = F.log_softmax(answer_logits(target, prompt, answer), dim=-1)
        log_q = F.log_softmax(answer_logits(draft, prompt, answer), dim=-1)
        overlaps += overlap(log_p, log_q).tolist()
        klds += kld(log_p, log_q).tolist()
    kept = [chain.kept for chain in verified]
    return Agreement(
        acceptance_rate=sum(kept) / sum(chain.drafted for chain in verified),
        emitted_per_step=statistics.fmean(chain.emitted for chain in verified),
        runs=[kept.count(length) for length in range(chain_len + 1)],
        overlap_mean=statistics.fmean(overlaps),
        kld_mean=statistics.fmean(klds),
        kld_variance=statistics.pvariance(klds),
        n_positions=len(klds),
    )


def evaluated(
    target: Llama, draft: Llama, documents: Documents, tokenizer: Tokenizer, settings: Settings
) -> dict[str, Any]:
    """The content of the card."""
    limit, context_len = settings.evaluation.heldout_tokens_per_domain, settings.target.training.context_len
    context_len = min(context_len, target.shape.context_len, draft.shape.context_len)
    stops = stop_ids(tokenizer)
    result: dict[str, Any] = {
        "target": {"parameters": target.n_parameters, "shape": asdict(target.shape)},
        "draft": {"parameters": draft.n_parameters, "shape": asdict(draft.shape)},
        "chain_len": settings.evaluation.chain_len,
        "agreement": {},
        "samples": {},
    }
    for name, model in (("target", target), ("draft", draft)):
        result[name]["heldout_nats_per_token"] = heldout_losses(model, documents, context_len, limit)
    room = target.shape.context_len - settings.evaluation.new_tokens
    for domain in DOMAINS:
        usable = [i for i in documents.of_domain(domain) if len(prompt_of(documents, i)) <= room]
        chosen = usable[: settings.evaluation.prompts_per_domain]
        if not chosen:
            continue
        prompts = [prompt_of(documents, i) for i in batches(documents, chosen, len(chosen))[0]]
        result["agreement"][domain] = asdict(agreement(target, draft, prompts, settings, stops))
        sampled = answers(target, prompts[:2], settings, 0.0, stops)
        result["samples"][domain] = [
            {"prompt": tokenizer.decode(prompt), "answer": tokenizer.decode(answer)}
            for prompt, answer in zip(prompts, sampled, strict=False)
        ]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True, help="run or model folder")
    parser.add_argument("--draft", type=Path, required=True, help="run or model folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with heldout.npz")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, help="manifest.json of the corpus, quoted in the card")
    parser.add_argument("--out", type=Path, required=True, help="folder for card.md and card.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    settings = Settings.read(args.config)
    target, draft = (checkpoint.load_model(folder, device) for folder in (args.target, args.draft))
    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    result = evaluated(target, draft, Documents.load(args.data / "heldout.npz"), tokenizer, settings)
    for name, folder in (("target", args.target), ("draft", args.draft)):
        result[name]["trained"] = checkpoint.history(folder)
    if args.manifest:
        result["corpus"] = json.loads(args.manifest.read_text(encoding="utf-8"))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "card.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (args.out / "card.md").write_text(card.rendered(result), encoding="utf-8")
    print(card.rendered(result))


if __name__ == "__main__":
    main()
