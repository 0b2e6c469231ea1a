"""Throughput of policies inside vLLM against vLLM's own lengths and against no speculation.

    python compare.py MODEL OUT.json DRAFTER[=FOLDER] [ROUNDS [LOADS]]

All engines are started once and asked in turn, round by round, so that what the machine does meanwhile hits all of them. An engine that
is not asked waits on a pipe. Greedy; every answer is cut at the same length.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from engine import Condition, Engine
from prompts import prompts

MAX_TOKENS = 48
LENS = [2, 4, 8]
"""Of the sweep over vLLM's fixed length."""
TABLE = [(1, 2, 4), (3, 8, 2), (9, 64, 1)]
"""vLLM's batch-size table: first, last, length."""
POLICIES = ["dsde", "auto"]
K = 8


def conditions(drafter: str, folder: str | None) -> list[Condition]:
    """No speculation, vLLM's fixed lengths, its table, and the policies."""

    def config(k: int, **more: object) -> dict:
        shared = {"num_speculative_tokens": k, **more}
        if drafter == "ngram":
            return {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 5, **shared}
        return {"method": drafter, "model": folder, **shared}

    return [
        Condition("off"),
        *(Condition(f"vLLM, {k}", config(k)) for k in LENS),
        Condition("vLLM, table", config(4, num_speculative_tokens_per_batch_size=TABLE)),
        *(Condition(policy, config(K), policy) for policy in POLICIES),
    ]


def main() -> None:
    model, out, drafter = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    n_rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    loads = [int(load) for load in sys.argv[5].split(",")] if len(sys.argv) > 5 else [1, 4, 16]
    method, _, folder = drafter.partition("=")
    questions = prompts(model)
    engines = [Engine(model, condition, len(questions)) for condition in conditions(method, folder or None)]
    found: list[dict] = []
    for engine in engines:
        run(engine, questions[:2], 2)
    for round_ in range(n_rounds):
        for load in loads:
            # Few at once take long, so that fewer are asked: two groups, of all kinds of questions.
            asked = questions[:: max(len(questions) // (2 * load), 1)]
            for engine in engines:
                found.append({"round": round_, "load": load, "condition": engine.condition.name, **run(engine, asked, load)})
                out.write_text("\n".join(json.dumps(line) for line in found) + "\n")
    for engine in engines:
        engine.close()
    table(found, loads, [engine.condition.name for engine in engines])


def run(engine: Engine, questions: list[str], load: int) -> dict:
    """Asks in groups of `load`; tokens per second over all of them, and drafts."""
    tokens = seconds = drafted = accepted = 0.0
    for i in range(0, len(questions), load):
        answer = engine.generate(questions[i : i + load], temperature=0.0, max_tokens=MAX_TOKENS, ignore_eos=True)
        tokens += sum(map(len, answer["tokens"]))
        seconds += answer["seconds"]
        drafted += answer["drafted"]
        accepted += answer["accepted"]
    return {"tokens_per_s": tokens / seconds, "drafted": drafted, "accepted": accepted}


def table(found: list[dict], loads: list[int], names: list[str]) -> None:
    """Markdown: tokens per second, and over no speculation in the same round."""
    print("| at once |" + "".join(f" {name} |" for name in names))
    print("|---|" + "---|" * len(names))
    for load in loads:
        rates = {name: [f["tokens_per_s"] for f in found if f["load"] == load and f["condition"] == name] for name in names}
        cells = []
        for name in names:
            ratios = [rate / off for rate, off in zip(rates[name], rates["off"], strict=True)]
            spread = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
            cells.append(f"{statistics.mean(rates[name]):.0f} ({statistics.mean(ratios):.2f} ± {spread:.2f})")
        print(f"| {load} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
