"""Records of the corpus and the filters they pass: held-out exclusion, deduplication, split by hash."""

import hashlib
import json
import lzma
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

DOMAINS = ("chat", "code", "math", "docs")

# The source of text made by rules, where many prompts share an answer on purpose.
CURRICULUM = "DSDE curriculum"

# A document that shares this many words in a row with held-out text counts as containing it.
SHINGLE_WORDS = 13

# Answers shorter than this (characters) recur by chance, such as "return self.name".
TELLING_CHARS = 80


@dataclass(frozen=True)
class Record:
    """One piece of training text: a prompt with its response, or plain text (then `prompt` is None)."""

    domain: str
    source: str
    licence: str
    text: str
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            raise ValueError(f"expected a domain of {DOMAINS}, got {self.domain!r}")

    @property
    def n_chars(self) -> int:
        return len(self.text) + len(self.prompt or "")

    def to_json(self) -> str:
        body = {"text": self.text} if self.prompt is None else {"prompt": self.prompt, "response": self.text}
        origin = {"domain": self.domain, "source": self.source, "licence": self.licence}
        return json.dumps(origin | body, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Record":
        raw = json.loads(line)
        text = raw["text"] if "text" in raw else raw["response"]
        return cls(raw["domain"], raw["source"], raw["licence"], text, raw.get("prompt"))


def open_lines(path: Path) -> TextIO:
    """A text file, plain or .xz."""
    return lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")


def part_path(folder: Path, part: str) -> Path:
    """`part.jsonl` of a corpus folder, or its compressed form, whichever is there."""
    plain = folder / f"{part}.jsonl"
    return plain if plain.exists() else folder / f"{part}.jsonl.xz"


def normalised(text: str) -> str:
    """Text without what editions change: case, accents' encoding, punctuation and white space."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def spaced(text: str) -> str:
    """Text with single spaces; unlike `normalised` it keeps operators, so that a + b and a - b differ."""
    return " ".join(text.split())


def hashed(text: str) -> int:
    """64 stable bits."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def fingerprint(text: str) -> int:
    """64 stable bits of the normalised text."""
    return hashed(normalised(text))


class Exclusion:
    """Text that must not be trained on: the prompts of a benchmark and their reference answers."""

    def __init__(self) -> None:
        self._exact: set[str] = set()
        self._prompts: set[int] = set()
        self._answers: set[int] = set()
        self._shingles: set[str] = set()

    def add(self, prompt: str, reference: str = "") -> None:
        self._exact.add(prompt)
        self._prompts.add(fingerprint(prompt))
        if len(normalised(reference)) >= TELLING_CHARS:
            self._answers.add(fingerprint(reference))
        for text in (prompt, reference):
            self._shingles.update(shingles(text))

    def add_file(self, path: Path) -> None:
        """Reads JSON lines with `prompt` and, if there, `reference` or `response`."""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                raw = json.loads(line)
                self.add(raw["prompt"], raw.get("reference") or raw.get("response") or "")

    def reason(self, record: Record) -> str | None:
        """Why a record must stay out, or None.

        Pairs are compared whole, because their prompts share stock phrases; documents by runs of words.
        """
        if record.prompt is None:
            return "held-out passage" if any(s in self._shingles for s in shingles(record.text)) else None
        if record.prompt in self._exact or fingerprint(record.prompt) in self._prompts:
            return "held-out prompt"
        if len(normalised(record.text)) >= TELLING_CHARS and fingerprint(record.text) in self._answers:
            return "held-out answer"
        return None


def shingles(text: str) -> Iterator[str]:
    """All runs of SHINGLE_WORDS normalised words."""
    words = normalised(text).split()
    return (" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1))


def is_clean(record: Record, chars_max: int) -> bool:
    """Bounds on size, and no replacement characters or NULs left by a wrong decoding."""
    whole = (record.prompt or "") + record.text
    return bool(record.text.strip()) and len(whole) <= chars_max and "\ufffd" not in whole and "\0" not in whole


@dataclass
class Sieve:
    """Lets each record through once, unless excluded; counts what it drops and why."""

    exclusion: Exclusion
    chars_max: int

    def __post_init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._seen: set[int] = set()

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            reason = self._reason(record)
            if reason is None:
                yield record
            else:
                self.dropped[reason] += 1

    def _reason(self, record: Record) -> str | None:
        if not is_clean(record, self.chars_max):
            return "size or encoding"
        if reason := self.exclusion.reason(record):
            return reason
        # Two packages often carry the same function under another docstring: long answers count on their own.
        keys = {hashed(spaced((record.prompt or "") + " " + record.text))}
        is_found = record.source != CURRICULUM
        if is_found and record.domain == "code" and len(spaced(record.text)) >= TELLING_CHARS:
            keys.add(hashed(spaced(record.text)))
        if keys & self._seen:
            return "duplicate"
        self._seen |= keys
        return None


def is_heldout(record: Record, share: float) -> bool:
    """Splits by the prompt (or the text), so that every answer to one prompt falls on the same side."""
    return fingerprint("split " + (record.prompt or record.text)) < share * 2.0**64
