"""Stage 3: `train.jsonl` and `heldout.jsonl` to token files `train.npz` and `heldout.npz`.

A pair becomes one ChatML exchange that ends with the end of turn; its prompt and its response are encoded apart,
because a server encodes the prompt alone. Plain text ends with the end of text.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data import Documents
from records import CURRICULUM, DOMAINS, Record, open_lines, part_path
from tokenizer import END_OF_TEXT, TURN_END, rendered_prompt

# Records encoded at once; Python's lists of tokens are large.
CHUNK_RECORDS = 4096


@dataclass(frozen=True)
class Encoded:
    """One record as tokens, of which the first `prompt_len` are given."""

    tokens: np.ndarray
    prompt_len: int
    domain: int


def encoded(records: list[Record], tokenizer: Tokenizer) -> list[Encoded]:
    """Tokens in the order of the records."""
    # Special tokens written inside a text must stay ordinary characters, or a document could end a turn.
    prompts = tokenizer.encode_batch(
        [rendered_prompt(plain(record.prompt)) if record.prompt else "" for record in records]
    )
    texts = tokenizer.encode_batch([plain(record.text) for record in records])
    # What the chat template writes after an answer: in a row, pairs then read like a conversation.
    turn_end = [tokenizer.token_to_id(TURN_END), *tokenizer.encode("\n").ids]
    text_end = [tokenizer.token_to_id(END_OF_TEXT)]
    return [
        Encoded(
            tokens=np.array(prompt.ids + text.ids + (turn_end if record.prompt else text_end), dtype=np.uint16),
            prompt_len=len(prompt.ids),
            domain=DOMAINS.index(record.domain),
        )
        for record, prompt, text in zip(records, prompts, texts, strict=True)
    ]


def encoded_file(path: Path, tokenizer: Tokenizer, wanted: Callable[[Record], bool] = lambda _: True) -> Documents:
    """The wanted records of a corpus file."""
    done: list[Encoded] = []
    with open_lines(path) as lines:
        records = filter(wanted, map(Record.from_json, lines))
        while chunk := list(islice(records, CHUNK_RECORDS)):
            done += encoded(chunk, tokenizer)
    return Documents.collect(
        [item.tokens for item in done], [item.prompt_len for item in done], [item.domain for item in done]
    )


def plain(text: str) -> str:
    """The text with the opening of special tokens broken by a space."""
    return text.replace("<|", "< |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument(
        "--curriculum-apart", action="store_true", help="the curriculum goes to curriculum.npz, for train.py --samples"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    if tokenizer.get_vocab_size() > 2**16:
        raise SystemExit(f"token files hold 16 bits, got a vocabulary of {tokenizer.get_vocab_size()}")
    args.out.mkdir(parents=True, exist_ok=True)
    train, heldout = (part_path(args.corpus, part) for part in ("train", "heldout"))
    parts = {"train": encoded_file(train, tokenizer), "heldout": encoded_file(heldout, tokenizer)}
    if args.curriculum_apart:
        parts["train"] = encoded_file(train, tokenizer, lambda record: record.source != CURRICULUM)
        parts["curriculum"] = encoded_file(train, tokenizer, lambda record: record.source == CURRICULUM)
    for part, documents in parts.items():
        documents.save(args.out / f"{part}.npz")
        print(f"{part}: {len(documents)} documents, tokens {json.dumps(documents.summary())}")


if __name__ == "__main__":
    main()
