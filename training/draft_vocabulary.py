"""The vocabulary of a small draft: the tokens of its target that matter, as a tokenizer of its own.

A third of the tokens is nearly all of the text, and of a small model the output matrix is most of what a guess costs.
The engine reads such a draft as one with another vocabulary: a token that it lacks is read as the longest end of its
bytes that it has, and is never guessed. What a draft learns from is read in the same way, so that it knows such ends.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import Documents
from tokenizer import SPECIALS

# What a token read in a prompt counts beside one that the target said.
READ_SHARE = 0.1

# Of how many tokens of other text a file of merges tells: they are ranked by frequency, which falls as 1 / rank.
PRIOR_TOKENS, PRIOR_RANK = 3e4, 100.0


@dataclass(frozen=True)
class Vocabulary:
    """draft_to_target: i64 [draft_vocab_size], ascending; reads: i64 [vocab_size], the draft's token for each."""

    draft_to_target: Tensor
    reads: Tensor


def counts(parts: list[Documents], vocab_size: int) -> np.ndarray:
    """How much each token counts, f64 [vocab_size]: said by the target, read by it, or frequent elsewhere."""
    weights = PRIOR_TOKENS / (np.arange(vocab_size) + PRIOR_RANK)
    for documents in parts:
        for i in range(len(documents)):
            np.add.at(weights, documents.answer(i), 1.0)
            np.add.at(weights, documents[i][: documents.prompt_lens[i]], READ_SHARE)
    return weights


def parents_of(model: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """The two tokens that each merged token is made of; `model` is that of a tokenizer.json."""
    vocabulary = model["vocab"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    parents: dict[int, tuple[int, int]] = {}
    for left, right in pairs:
        parents.setdefault(vocabulary[left + right], (vocabulary[left], vocabulary[right]))
    return parents


def chosen(tokenizer: dict[str, Any], weights: np.ndarray, size: int) -> list[int]:
    """The specials, all bytes, and the heaviest tokens with all that they are merged from: `size` ids, ascending."""
    vocabulary, parents = tokenizer["model"]["vocab"], parents_of(tokenizer["model"])
    added = {token["id"] for token in tokenizer["added_tokens"]}
    kept = {vocabulary[special] for special in SPECIALS}
    kept |= {token for token in vocabulary.values() if token not in parents and token not in added}
    for token in np.argsort(-weights, kind="stable").tolist():
        if token in kept or token not in parents:
            continue
        missing, open_tokens = set(), [token]
        while open_tokens:
            part = open_tokens.pop()
            if part not in kept and part not in missing:
                missing.add(part)
                open_tokens += parents.get(part, ())
        if len(kept) + len(missing) <= size:
            kept |= missing
        if len(kept) == size:
            return sorted(kept)
    raise SystemExit(f"expected a tokenizer of more than {size} tokens that text is made of, got {len(kept)} of them")


def reduced(tokenizer: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """The tokenizer.json that has the tokens `kept` alone, counted anew, and the merges that lead to them."""
    model, new_id = tokenizer["model"], {old: new for new, old in enumerate(kept)}
    vocabulary = {text: new_id[old] for text, old in model["vocab"].items() if old in new_id}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    merges = [pair for pair in pairs if all(text in vocabulary for text in (*pair, "".join(pair)))]
    added = [token | {"id": new_id[token["id"]]} for token in tokenizer["added_tokens"] if token["id"] in new_id]
    return tokenizer | {"added_tokens": added, "model": model | {"vocab": vocabulary, "merges": merges}}


def reads_of(tokenizer: dict[str, Any], kept: list[int], vocab_size: int) -> Tensor:
    """The token of the draft, i64 [vocab_size], that each token of the target is read as; 0 where there is none.

    Byte-level vocabularies write one character per byte, so that ends of texts are ends of bytes.
    """
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    new_id = {old: new for new, old in enumerate(kept)}
    added = {token["id"] for token in tokenizer["added_tokens"]}
    texts = {text: new_id[old] for text, old in vocabulary.items() if old in new_id and old not in added}
    reads = torch.zeros(vocab_size, dtype=torch.long)
    for text, old in vocabulary.items():
        if old in new_id:
            reads[old] = new_id[old]
        else:
            ends = (text[start:] for start in range(1, len(text)))
            reads[old] = next((texts[end] for end in ends if end in texts), 0)
    return reads


def vocabulary_of(folder: Path, parts: list[Documents], vocab_size: int, size: int) -> Vocabulary:
    """The reduced vocabulary of the target in `folder` for what it said in `parts`."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    kept = chosen(tokenizer, counts(parts, vocab_size), size)
    return Vocabulary(torch.tensor(kept), reads_of(tokenizer, kept, vocab_size))
