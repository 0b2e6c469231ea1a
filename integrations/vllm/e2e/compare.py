"""Throughput of policies inside vLLM against vLLM's own lengths and against no speculation.

    python compare.py MODEL OUT.jsonl DRAFTER[=FOLDER] [--rounds 3] [--loads 1,4,16] [--lens 2,4,8] [--policies "dsde;auto"]

All engines are started once and asked in turn, round by round, so that what the machine does meanwhile hits all of them. An engine that
is not asked waits on a pipe. Greedy, the same requests for all, so many at once; a request enters where another one ends.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from engine import Condition, Engine
from prompts import prompts

MAX_TOKENS = 96
K = 8
"""Longest length of a policy."""


def conditions(args: argparse.Namespace) -> list[Condition]:
    """No speculation, vLLM's fixed lengths, its table, and the policies."""
    drafter, _, folder = args.drafter.partition("=")

    def config(k: int, **more: object) -> dict:
        shared = {"method": drafter, "num_speculative_tokens": k, **more}
        if drafter == "ngram":
            return {"prompt_lookup_min": 2, "prompt_lookup_max": 5, **shared}
        return {"model": folder, **shared}

    lens = [int(k) for k in args.lens.split(",") if k]
    found = [Condition("off", dtype=args.dtype)]
    found += [Condition(f"vLLM, {k}", config(k), dtype=args.dtype) for k in lens]
    if args.table:
        rows = [[int(n) for n in row.split("-")] for row in args.table.split(",")]
        table = config(max(row[2] for row in rows), num_speculative_tokens_per_batch_size=rows)
        found.append(Condition("vLLM, table", table, dtype=args.dtype))
    return found + [Condition(policy, config(K), policy, dtype=args.dtype) for policy in args.policies.split(";") if policy]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("drafter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", default="1,4,16", help="requests at once")
    parser.add_argument("--lens", default="2,4,8", help="vLLM's fixed lengths")
    parser.add_argument("--table", default="1-2-4,3-8-2,9-64-1", help="vLLM's batch-size table: FIRST-LAST-LENGTH,...")
    parser.add_argument("--policies", default="dsde;dsde:cap=mean;auto")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    loads = [int(load) for load in args.loads.split(",")]
    questions = prompts(args.model)
    engines = [Engine(args.model, condition, max(loads)) for condition in conditions(args)]
    found: list[dict] = []
    for engine in engines:
        for load in loads:
            run(engine, questions, load)
    for round_ in range(args.rounds):
        for load in loads:
            for engine in engines:
                found.append({"round": round_, "load": load, "condition": engine.condition.name, **run(engine, questions, load)})
                args.out.write_text("\n".join(json.dumps(line) for line in found) + "\n")
    for engine in engines:
        engine.close()
    table(found, loads, [engine.condition.name for engine in engines])


def run(engine: Engine, questions: list[str], load: int) -> dict:
    """Asks with `load` at once; tokens per second, and drafts."""
    # Few at once take long, so that fewer are asked; of all kinds.
    asked = [questions[5 * i % len(questions)] for i in range(4 + 2 * load)]
    answer = engine.generate(asked, load, temperature=0.0, max_tokens=MAX_TOKENS)
    n_tokens = sum(map(len, answer["tokens"]))
    shown = {name: answer[name] for name in ("seconds", "drafted", "accepted")}
    return {"tokens_per_s": n_tokens / answer["seconds"], "tokens": n_tokens, **shown}


def table(found: list[dict], loads: list[int], names: list[str]) -> None:
    """Markdown: tokens per second, and over no speculation in the same round: median, least and most."""
    print("| at once |" + "".join(f" {name} |" for name in names))
    print("|---|" + "---|" * len(names))
    for load in loads:
        rates = {name: [f["tokens_per_s"] for f in found if f["load"] == load and f["condition"] == name] for name in names}
        cells = []
        for name in names:
            ratios = sorted(rate / off for rate, off in zip(rates[name], rates["off"], strict=True))
            middle = f"{statistics.median(rates[name]):.0f} ({statistics.median(ratios):.2f}"
            cells.append(f"{middle}; {ratios[0]:.2f}..{ratios[-1]:.2f})")
        print(f"| {load} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
