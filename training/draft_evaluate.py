"""What a draft of draft_train.py is worth, by domain, on answers that it never learned from; writes the card's figures.

Chains of CHAIN_LEN drafts walk through the target's answers as in evaluate.py. Temperature 0: a draft is kept if it is
the token of the greedy answer. Temperature 1, on answers that were sampled: a token y was a kept draft with probability
min(1, q(y) / p(y)), which is what rejection sampling does. KLD(target || draft) is over the whole vocabulary, both
clamped below at PROBABILITY_MIN as in the engine, so that tokens which the draft lacks count.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import checkpoint
from acceptance import CHAIN_LEN, arguments, judged_answers, parsed, report
from card import run_names, table
from draft_vocabulary import Vocabulary, reads_of
from eagle3_features import Features, load_features
from evaluate import KLD_QUANTILES, RUN_ENDS, Divergence, Speculation, divergence, speculation
from model import Llama

PROBABILITY_MIN = 1e-8


@dataclass(frozen=True)
class DomainFigures:
    """Figures of a domain at one temperature; covered: share of the answers in the draft's vocabulary."""

    speculation: Speculation
    divergence: Divergence
    covered: float
    n_documents: int
    n_tokens: int

    @property
    def accepted_per_step(self) -> float:
        kept = self.speculation.kept
        return sum(n * count for n, count in enumerate(kept)) / sum(kept)


def clamped_kld(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension, nats, both at least PROBABILITY_MIN."""
    p, q = p.clamp_min(PROBABILITY_MIN), q.clamp_min(PROBABILITY_MIN)
    return (p * (p.log() - q.log())).sum(-1)


@dataclass(frozen=True)
class Judge:
    """A draft beside its target's output rows, f32 [vocab_size, hidden_size]."""

    draft: Llama
    vocabulary: Vocabulary
    output_rows: Tensor
    temperature: int
    generator: torch.Generator

    def answer(self, features: Features, i: int) -> tuple[list[bool], Tensor, Tensor]:
        """Of each token of an answer: whether it was a kept draft, 1 - TV, KLD."""
        tokens = torch.from_numpy(features.documents[i].astype("int64"))
        answer = torch.arange(int(features.documents.prompt_lens[i]), len(tokens))
        hidden = self.draft.model(self.vocabulary.reads[tokens[:-1]][None])[0, answer - 1]
        p = F.linear(features.of(i)[answer - 1, -1].float(), self.output_rows).softmax(-1)
        q = torch.zeros_like(p)
        q[:, self.vocabulary.draft_to_target] = self.draft.logits(hidden).softmax(-1)
        said = tokens[answer]
        if self.temperature == 0:
            kept = q.argmax(-1) == said
        else:
            p_said, q_said = (x.gather(1, said[:, None]).squeeze(1) for x in (p, q))
            kept = torch.rand(len(said), generator=self.generator) < q_said / p_said
        return kept.tolist(), torch.minimum(p, q).sum(-1), clamped_kld(p, q)

    def figures(self, features: Features) -> DomainFigures:
        """All answers of a part."""
        answers = judged_answers(features.documents)
        kept, overlaps, klds = zip(*(self.answer(features, i) for i in answers.chosen), strict=True)
        return DomainFigures(
            speculation(list(kept), CHAIN_LEN),
            divergence(torch.cat(overlaps), torch.cat(klds)),
            float(torch.isin(answers.tokens, self.vocabulary.draft_to_target).float().mean()),
            len(answers.chosen),
            len(answers.tokens),
        )


def tables(by_domain: dict[str, dict[str, DomainFigures]]) -> str:
    """The figures as Markdown; `by_domain` names temperatures and then domains."""
    head = [
        "domain",
        "temperature",
        "accepted per step",
        "acceptance rate",
        *(f"kept {n}" for n in range(CHAIN_LEN + 1)),
    ]
    head += ["mean run", *(f"runs {name}" for name in run_names(list(RUN_ENDS)))]
    apart = ["domain", "temperature", "1 - TV", "KLD", "variance", *(f"KLD {q:.0%}" for q in KLD_QUANTILES)]
    apart += ["covered", "answers", "tokens"]
    lengths, divergences = [], []
    for temperature, figures in by_domain.items():
        for domain, f in figures.items():
            s, d = f.speculation, f.divergence
            shares = [f"{count / sum(s.kept):.3f}" for count in s.kept]
            runs = [f"{count / sum(s.runs):.3f}" for count in s.runs]
            rates = [f"{f.accepted_per_step:.2f}", f"{s.acceptance_rate:.3f}"]
            lengths.append([domain, temperature, *rates, *shares, f"{s.run_mean:.2f}", *runs])
            klds = [f"{d.overlap_mean:.3f}", f"{d.kld_mean:.2f}", f"{d.kld_variance:.2f}"]
            klds += [f"{quantile:.2f}" for quantile in d.kld_quantiles]
            divergences.append([domain, temperature, *klds, f"{f.covered:.3f}", str(f.n_documents), str(f.n_tokens)])
    return table(head, lengths) + "\n" + table(apart, divergences)


def loaded(run: Path, target: Path, vocab_size: int) -> tuple[Llama, Vocabulary]:
    """The draft of a run folder, and its vocabulary."""
    kept = checkpoint.load(run)["draft_to_target"]
    tokenizer = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
    draft = checkpoint.load_model(run, torch.device("cpu"))
    return draft, Vocabulary(kept, reads_of(tokenizer, kept.tolist(), vocab_size))


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder of the draft")
    parser.add_argument("--features", type=Path, required=True, help="greedy answers, one part per domain: DOMAIN.npz")
    parser.add_argument("--sampled", type=Path, help="the same of answers at temperature 1")
    args = parsed(parser)

    target = checkpoint.load_model(args.target, torch.device("cpu"))
    draft, vocabulary = loaded(args.run, args.target, target.shape.vocab_size)
    by_domain = {}
    for temperature, folder in enumerate(filter(None, (args.features, args.sampled))):
        generator = torch.Generator().manual_seed(1)
        judge = Judge(draft, vocabulary, target.model.embed_tokens.weight, temperature, generator)
        by_domain[str(temperature)] = {
            path.stem: judge.figures(load_features(path, target.shape.hidden_size))
            for path in sorted(folder.glob("*.npz"))
        }
    report(tables(by_domain), by_domain, args.out)


if __name__ == "__main__":
    main()
