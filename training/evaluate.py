"""Stage 7: how well the pair models held-out text, and how well the draft agrees with the target; writes a model card.

Greedy speculation needs no drafting to be simulated: as long as all earlier drafted tokens were kept, the draft reads
the target's own text, so a chain is kept exactly as far as the draft's likeliest token equals the target's next one.
"""

import argparse
import json
import statistics
from bisect import bisect_left
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


# Upper ends of the bins of run lengths; longer runs go to one more.
RUN_ENDS = (0, 1, 2, 4, 8, 16)
# Quantiles of the KLD that the card shows.
KLD_QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Speculation:
    """Chains of up to `chain_len` drafted tokens over the target's own answers at one temperature.

    `kept[a]` counts the verifications that kept a tokens. Runs are of consecutive tokens the draft foresaw, whatever
    the chain length; `runs` counts them by RUN_ENDS. A run that the end of the answer cuts counts as it is.
    """

    acceptance_rate: float
    emitted_per_step: float
    kept: list[int]
    runs: list[int]
    run_mean: float


@dataclass(frozen=True)
class Divergence:
    """Target against draft at the positions of the target's answers at temperature 1; KLD in nats."""

    overlap_mean: float
    kld_mean: float
    kld_variance: float
    kld_quantiles: list[float]
    n_positions: int


@dataclass(frozen=True)
class Agreement:
    """Draft against target in one domain."""

    greedy: Speculation
    sampled: Speculation
    divergence: Divergence


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


def run_lengths(matches: list[bool]) -> list[int]:
    """Tokens foreseen in a row before each one that was not, and before the end of the answer if it was foreseen."""
    lengths, length = [], 0
    for is_match in matches:
        if is_match:
            length += 1
        else:
            lengths.append(length)
            length = 0
    return lengths + ([length] if length else [])


def speculation(answers_foreseen: list[list[bool]], chain_len: int) -> Speculation:
    """What a chain of fixed length wins, from which tokens of each answer were foreseen."""
    verified = [chain for matches in answers_foreseen for chain in chains(matches, chain_len)]
    kept = [chain.kept for chain in verified]
    lengths = [length for matches in answers_foreseen for length in run_lengths(matches)]
    runs = [0] * (len(RUN_ENDS) + 1)
    for length in lengths:
        runs[bisect_left(RUN_ENDS, length)] += 1
    return Speculation(
        acceptance_rate=sum(kept) / sum(chain.drafted for chain in verified),
        emitted_per_step=statistics.fmean(chain.emitted for chain in verified),
        kept=[kept.count(length) for length in range(chain_len + 1)],
        runs=runs,
        run_mean=statistics.fmean(lengths),
    )


def divergence(overlaps: Tensor, klds: Tensor) -> Divergence:
    return Divergence(
        overlap_mean=float(overlaps.mean()),
        kld_mean=float(klds.mean()),
        kld_variance=float(klds.var(correction=0)),
        kld_quantiles=klds.quantile(torch.tensor(KLD_QUANTILES)).tolist(),
        n_positions=len(klds),
    )


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
    """Measures one domain; see `Agreement`.

    At temperature 1 a token y of the target's text was a kept draft with probability min(1, q(y) / p(y)): rejection
    sampling emits y as a kept draft with min(p(y), q(y)), and in all with p(y).
    """
    generator = torch.Generator().manual_seed(settings.seed)
    greedy, sampled, overlaps, klds = [], [], [], []
    for prompt, answer in zip(prompts, answers(target, prompts, settings, 0.0, stops), strict=True):
        guesses = answer_logits(draft, prompt, answer).argmax(-1).tolist()
        greedy.append([guess == token for guess, token in zip(guesses, answer, strict=True)])
    for prompt, answer in zip(prompts, answers(target, prompts, settings, 1.0, stops), strict=True):
        log_p = F.log_softmax(answer_logits(target, prompt, answer), dim=-1).cpu()
        log_q = F.log_softmax(answer_logits(draft, prompt, answer), dim=-1).cpu()
        overlaps.append(overlap(log_p, log_q))
        klds.append(kld(log_p, log_q))
        chosen = torch.tensor(answer).unsqueeze(1)
        ratio = (log_q - log_p).gather(1, chosen).squeeze(1).exp()
        sampled.append((torch.rand(len(answer), generator=generator) < ratio).tolist())
    chain_len = settings.evaluation.chain_len
    return Agreement(
        speculation(greedy, chain_len),
        speculation(sampled, chain_len),
        divergence(torch.cat(overlaps), torch.cat(klds)),
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
        "run_ends": list(RUN_ENDS),
        "kld_quantiles": list(KLD_QUANTILES),
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
