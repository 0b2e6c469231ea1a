"""Stage 5, the quick way for greedy text: answers of an engine as token files for the draft's training.

`dsde generate --file PROMPTS --json` writes the target's greedy text several times faster than sample.py on a CPU; this
command turns PROMPTS and those answers into the same file. `--prompts-from` writes PROMPTS from the corpus.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data import Documents
from encode import plain
from records import DOMAINS, Record, open_lines, part_path
from tokenizer import rendered_prompt


def write_prompts(corpus: Path, out: Path, n_prompts: int, seed: int) -> None:
    """A random choice of the prompts of the training part, with their domains."""
    with open_lines(part_path(corpus, "train")) as lines:
        records = [record for record in map(Record.from_json, lines) if record.prompt]
    random.Random(seed).shuffle(records)
    with out.open("w", encoding="utf-8") as file:
        for record in records[:n_prompts]:
            print(json.dumps({"domain": record.domain, "prompt": record.prompt}), file=file)


def collected(
    prompts: Path, answers: list[Path], tokenizer: Tokenizer, prompt_len_max: int, twice: list[str]
) -> Documents:
    """Prompts and answers of all lines of ANSWERS, whose `index` counts lines of PROMPTS; domains in `twice` doubly."""
    asked = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    encoded, prompt_lens, domains = [], [], []
    for file in answers:
        for line in file.read_text(encoding="utf-8").splitlines():
            answer = json.loads(line)
            ask = asked[answer["index"]]
            prompt = tokenizer.encode(rendered_prompt(plain(ask["prompt"]))).ids
            if len(prompt) > prompt_len_max or not answer["tokens"]:
                continue
            for _ in range(2 if ask["domain"] in twice else 1):
                encoded.append(np.array(prompt + answer["tokens"], dtype=np.uint16))
                prompt_lens.append(len(prompt))
                domains.append(DOMAINS.index(ask["domain"]))
    return Documents.collect(encoded, prompt_lens, domains)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--prompts-from", type=Path, metavar="CORPUS", help="write PROMPTS from this corpus folder")
    parser.add_argument("--n-prompts", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--answers", type=Path, nargs="*", default=[], help="what dsde generate --json wrote")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--prompt-len-max", type=int, default=320)
    parser.add_argument("--twice", nargs="*", default=[], choices=DOMAINS, help="domains that count two times")
    parser.add_argument("--out", type=Path, metavar="FILE.npz")
    args = parser.parse_args()

    if args.prompts_from:
        write_prompts(args.prompts_from, args.prompts, args.n_prompts, args.seed)
        return
    if not (args.answers and args.tokenizer and args.out):
        raise SystemExit("give --prompts-from, or --answers with --tokenizer and --out")
    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    samples = collected(args.prompts, args.answers, tokenizer, args.prompt_len_max, args.twice)
    samples.save(args.out)
    print(f"{len(samples)} samples, tokens {samples.summary()}")


if __name__ == "__main__":
    main()
