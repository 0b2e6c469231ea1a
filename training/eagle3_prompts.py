"""EAGLE-3, stage 1: questions for the target, from a corpus folder, in parts that an engine answers one by one.

Chat, code and maths are asked as the corpus has them; a passage of it becomes a request for a summary. What is asked
later, when the head is judged, never appears: `--exclude` drops those prompts, exactly and by normalised text.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from records import CURRICULUM, TELLING_CHARS, Exclusion, Record, normalised, open_lines, part_path

# Prompts in a part: what an engine answers in a few minutes.
PART_PROMPTS = 480

# Characters of a passage to be summarised.
PASSAGE_CHARS = (700, 2400)

SUMMARY_REQUESTS = ("Summarize: ", "Summarize: ", "Summarize the following text.\n", "Give a short summary of this: ")

# Prompts made by rules are easy to foresee: a little of them is enough.
CURRICULUM_SHARE = 0.1


def questions(records: list[Record], counts: dict[str, int], chars_max: int, seed: int) -> list[dict[str, str]]:
    """Shuffled {"domain", "prompt", "source", "licence"}, of each domain `counts[domain]` or as many as there are."""
    draw = random.Random(seed)
    shuffled = draw.sample(records, len(records))
    asked = []
    for domain, count in counts.items():
        is_summary = domain == "summarization"
        pool = list(summaries(shuffled, draw)) if is_summary else asked_as_is(shuffled, domain, chars_max)
        n_simple = int(count * CURRICULUM_SHARE)
        simple = [item for item in pool if item["source"] == CURRICULUM][:n_simple]
        found = [item for item in pool if item["source"] != CURRICULUM][: count - len(simple)]
        asked += [{"domain": domain} | item for item in simple + found]
    draw.shuffle(asked)
    return asked


def asked_as_is(records: list[Record], domain: str, chars_max: int) -> list[dict[str, str]]:
    """The prompts of a domain that are not too long."""
    return [
        {"prompt": record.prompt, "source": record.source, "licence": record.licence}
        for record in records
        if record.domain == domain and record.prompt and len(record.prompt) <= chars_max
    ]


def summaries(records: list[Record], draw: random.Random) -> Iterator[dict[str, str]]:
    """Requests to summarise documents, and passages put together from long answers of one source."""
    shortest, longest = PASSAGE_CHARS
    open_passages: dict[str, str] = {}
    for record in records:
        if record.source == CURRICULUM or record.domain not in ("docs", "chat") or len(record.text) < TELLING_CHARS * 2:
            continue
        passage = (open_passages.pop(record.source, "") + "\n" + " ".join(record.text.split())).strip()
        if len(passage) < draw.randint(shortest, longest):
            open_passages[record.source] = passage
        else:
            request = draw.choice(SUMMARY_REQUESTS) + passage[:longest]
            yield {"prompt": request, "source": record.source, "licence": record.licence}


def is_asked_later(prompt: str, exclusion: Exclusion) -> bool:
    """Whether a prompt is one of those that judge the head."""
    return exclusion.reason(Record("chat", "", "", "-", prompt)) is not None


def without_repeats(asked: list[dict[str, str]], exclusion: Exclusion) -> list[dict[str, str]]:
    """Without excluded prompts, and each prompt once."""
    seen: set[str] = set()
    kept = []
    for item in asked:
        key = normalised(item["prompt"])
        if key not in seen and not is_asked_later(item["prompt"], exclusion):
            seen.add(key)
            kept.append(item)
    return kept


def named_count(text: str) -> tuple[str, int]:
    domain, _, count = text.partition("=")
    if not count.isdigit():
        raise argparse.ArgumentTypeError(f"expected DOMAIN=COUNT, got {text!r}")
    return domain, int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by corpus.py")
    parser.add_argument("--counts", type=named_count, nargs="+", required=True, metavar="DOMAIN=COUNT")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="JSON lines whose prompts stay out")
    parser.add_argument("--chars-max", type=int, default=1000, help="longer prompts are not asked")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder for part-00.jsonl, part-01.jsonl, …")
    args = parser.parse_args()

    exclusion = Exclusion()
    for path in args.exclude:
        exclusion.add_file(path)
    with open_lines(part_path(args.corpus, "train")) as lines:
        records = [Record.from_json(line) for line in lines]
    asked = without_repeats(questions(records, dict(args.counts), args.chars_max, args.seed), exclusion)
    args.out.mkdir(parents=True, exist_ok=True)
    for part, start in enumerate(range(0, len(asked), PART_PROMPTS)):
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in asked[start : start + PART_PROMPTS])
        (args.out / f"part-{part:02}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(asked)} prompts in {args.out}")


if __name__ == "__main__":
    main()
