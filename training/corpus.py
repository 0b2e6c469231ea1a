"""Stage 1: public texts to `train.jsonl` and `heldout.jsonl`.

Each line is {"domain", "source", "licence"} with {"prompt", "response"} or {"text"}. Nothing is downloaded: sources are
paths, their names and licences stand in sources.toml, and what the manifest lists is what was really read.
"""

import argparse
import json
import lzma
import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import curriculum
import extract
import synthetic
from records import DOMAINS, Exclusion, Record, Sieve, is_heldout, open_lines

# Marks of program text in an instruction set whose parts are not labelled.
CODE_MARKS = re.compile(
    r"```|^\s*(def|class|import|from|public|private|function|const|let|var|return)\b.*[:;({]\s*$|#include|</\w+>|"
    r"\b(SELECT|INSERT INTO)\b|console\.log|System\.out",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Source:
    """A table of sources.toml."""

    name: str
    title: str
    licence: str
    kind: str
    domain: str
    # Licences a package may have to be read from this source.
    allowed: frozenset[str] = frozenset()


def read_sources(path: Path) -> dict[str, Source]:
    """The tables of sources.toml by name."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    allowed = frozenset(tables.pop("licences")["allowed"])
    keys = ("title", "licence", "kind", "domain")
    return {name: Source(name, *(table[key] for key in keys), allowed) for name, table in tables.items()}


def domain_of(prompt: str, response: str) -> str:
    """chat or code, for instruction sets that mix both."""
    return "code" if CODE_MARKS.search(response) or CODE_MARKS.search(prompt) else "chat"


def read_instructions(source: Source, path: Path) -> Iterator[Record]:
    """A JSON list of {"instruction", "input"?, "response" or "output"}."""
    for raw in json.loads(path.read_text(encoding="utf-8")):
        extra = raw.get("input") or ""
        prompt = raw["instruction"] + ("\n" + extra if extra.strip() else "")
        response = raw.get("response") or raw.get("output") or ""
        yield Record(domain_of(prompt, response), source.title, source.licence, response, prompt)


def read_questions(source: Source, path: Path) -> Iterator[Record]:
    """JSON lines of {"question", "answer"}; calculator notes such as <<4*30=120>> are removed."""
    for line in path.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        answer = re.sub(r"<<[^<>]*>>", "", raw["answer"])
        yield Record(source.domain, source.title, source.licence, answer, raw["question"])


def read_python(source: Source, path: Path) -> Iterator[Record]:
    """Functions of all Python files below a folder."""
    for file in extract.files_under(path, (".py",)):
        yield from function_records(source, source.licence, file)


def read_documents(source: Source, path: Path) -> Iterator[Record]:
    """reStructuredText, Markdown and plain text below a folder, cut into parts."""
    for file in extract.files_under(path, (".rst", ".md", ".txt")):
        yield from document_records(source, source.licence, file)


def read_packages(source: Source, path: Path) -> Iterator[Record]:
    """Functions and documents of the packages whose licences are all allowed."""
    for package in extract.packages(path):
        if not package.is_allowed(source.allowed):
            print(f"skipped {package.name}: licences {sorted(package.licences) or 'not found'}")
            continue
        licence = " AND ".join(sorted(package.licences))
        origin = Source(source.name, package.name, licence, source.kind, source.domain)
        for file in package.files:
            if file.suffix == ".py":
                yield from function_records(origin, licence, file)
            elif file.suffix in (".rst", ".md"):
                yield from document_records(origin, licence, file)


def function_records(source: Source, licence: str, file: Path) -> Iterator[Record]:
    for function in extract.functions(file.read_text(encoding="utf-8", errors="replace")):
        yield Record("code", source.title, licence, function.body, function.prompt)


def document_records(source: Source, licence: str, file: Path) -> Iterator[Record]:
    for part in extract.parts(file.read_text(encoding="utf-8", errors="replace")):
        yield Record("docs", source.title, licence, part)


READERS: dict[str, Callable[[Source, Path], Iterator[Record]]] = {
    "instructions": read_instructions,
    "questions": read_questions,
    "python": read_python,
    "documents": read_documents,
    "packages": read_packages,
}


def read_pairs(path: Path) -> Iterator[Record]:
    """Finished pairs, JSON lines, plain or .xz; "source" reads "Title (licence)", an open domain is settled here."""
    with open_lines(path) as lines:
        for line in lines:
            raw = json.loads(line)
            named = re.fullmatch(r"(.*) \(([^()]*)\)", raw["source"])
            title, licence = (named[1], named[2]) if named else (raw["source"], raw.get("licence", "unknown"))
            domain = raw["domain"] if raw["domain"] in DOMAINS else domain_of(raw["prompt"], raw["response"])
            yield Record(domain, title, licence, raw["response"], raw["prompt"])


def write_corpus(records: Iterable[Record], sieve: Sieve, args: argparse.Namespace) -> dict[str, Any]:
    """Writes both parts, shuffled, and returns the manifest."""
    split: dict[str, list[Record]] = {"train": [], "heldout": []}
    for record in sieve(records):
        split["heldout" if is_heldout(record, args.heldout_share) else "train"].append(record)
    args.out.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {"seed": args.seed, "heldout_share": args.heldout_share, "dropped": dict(sieve.dropped)}
    for part, kept in split.items():
        random.Random(args.seed).shuffle(kept)
        if part == "train":
            kept = capped(kept, dict(args.cap))
        lines = "".join(record.to_json() + "\n" for record in kept).encode()
        for stale in (args.out / f"{part}.jsonl", args.out / f"{part}.jsonl.xz"):
            stale.unlink(missing_ok=True)
        name = f"{part}.jsonl.xz" if args.xz else f"{part}.jsonl"
        (args.out / name).write_bytes(lzma.compress(lines) if args.xz else lines)
        manifest[part] = {f"{field}s": tally(kept, field) for field in ("domain", "licence", "source")}
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def capped(records: list[Record], caps: dict[str, str]) -> list[Record]:
    """The first records of each domain up to its cap in characters: packages hold far more code than there is chat."""
    used: Counter[str] = Counter()
    kept = []
    for record in records:
        if used[record.domain] < float(caps.get(record.domain, "inf")):
            kept.append(record)
            used[record.domain] += record.n_chars
    return kept


def tally(records: list[Record], field: str) -> dict[str, dict[str, int]]:
    """Records and characters by the value of a field."""
    n_records, n_chars = Counter(), Counter()
    for record in records:
        n_records[getattr(record, field)] += 1
        n_chars[getattr(record, field)] += record.n_chars
    return {key: {"records": n_records[key], "characters": n_chars[key]} for key in sorted(n_records)}


def all_records(args: argparse.Namespace, sources: dict[str, Source]) -> Iterator[Record]:
    """Everything the command line names, in its order."""
    for name, path in args.source:
        if name not in sources:
            raise SystemExit(f"unknown source {name!r}; sources.toml has {sorted(sources)}")
        yield from READERS[sources[name].kind](sources[name], Path(path))
    for path in args.pairs:
        yield from read_pairs(path)
    if args.synthetic:
        yield from synthetic.records(args.synthetic, args.seed)
    if args.curriculum:
        yield from curriculum.records(args.curriculum, args.seed)


def named_value(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for train.jsonl, heldout.jsonl, manifest.json")
    parser.add_argument("--sources", type=Path, default=Path(__file__).with_name("sources.toml"))
    parser.add_argument("--source", type=named_value, action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--pairs", type=Path, action="append", default=[], metavar="FILE.jsonl[.xz]")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="JSON lines whose prompts stay out")
    parser.add_argument("--synthetic", type=int, default=0, metavar="N", help="add N generated records per domain")
    parser.add_argument("--curriculum", type=int, default=0, metavar="N", help="add N simple records made by rules")
    parser.add_argument("--heldout-share", type=float, default=0.01)
    parser.add_argument("--cap", type=named_value, action="append", default=[], metavar="DOMAIN=CHARACTERS")
    parser.add_argument("--chars-max", type=int, default=24_000, help="longer records are dropped")
    parser.add_argument("--xz", action="store_true", help="compress both parts, for the way to another machine")
    parser.add_argument("--seed", type=int, default=20250901)
    args = parser.parse_args()

    sources = read_sources(args.sources)
    exclusion = Exclusion()
    for path in args.exclude:
        exclusion.add_file(path)
    sieve = Sieve(exclusion, args.chars_max)
    manifest = write_corpus(all_records(args, sources), sieve, args)
    print(f"dropped: {manifest['dropped']}")
    for part in ("train", "heldout"):
        for domain, count in manifest[part]["domains"].items():
            print(f"{part:8}{domain:6}{count['records']:9} records{count['characters']:12} characters")


if __name__ == "__main__":
    main()
