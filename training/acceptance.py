"""What the evaluations of drafts and of heads share: which answers they judge, and where their figures go."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import Documents

# Tokens drafted per verification.
CHAIN_LEN = 3


@dataclass(frozen=True)
class Answers:
    """Answers of a part that are judged: indices of their documents; their tokens end to end, i64 [n_tokens]."""

    chosen: list[int]
    tokens: Tensor


def judged_answers(documents: Documents) -> Answers:
    """All answers in which a draft can be judged."""
    chosen = [i for i in range(len(documents)) if documents.has_chain(i)]
    return Answers(chosen, torch.cat([torch.from_numpy(documents.answer(i).astype("int64")) for i in chosen]))


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser of what every evaluation takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True, help="Hugging Face folder of the target")
    parser.add_argument("--out", type=Path, help="write the figures to this folder: acceptance.json, acceptance.md")
    parser.add_argument("--threads", type=int, help="CPU threads; default: as many as cores")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, with the threads they ask for."""
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def report(markdown: str, figures: dict[str, Any], out: Path | None) -> None:
    """Prints the figures as Markdown, and writes them to a folder if one is given; `figures`: dataclasses by name."""
    print(markdown)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "acceptance.md").write_text(markdown, encoding="utf-8")
    (out / "acceptance.json").write_text(json.dumps(figures, indent=2, default=asdict) + "\n", encoding="utf-8")
