"""What the plugin itself takes per step, without a model: the bookkeeping of `Speculation` and the policy, and the pass over logits.

    python overhead.py

Prints microseconds, median and 90th percentile over steps, and the line through the medians of the batch sizes.
"""

from __future__ import annotations

import math
import statistics
from time import perf_counter

import numpy as np

import dsde
from dsde.vllm.speculation import Memory, Pass, Row, Speculation

BATCHES = [1, 4, 16, 64, 256]
N_STEPS = 300
K = 6
VOCAB = 49152


def steps(policy: str, n: int) -> list[float]:
    """Microseconds of every step of `n` requests."""
    speculation = Speculation(dsde.Policy(policy), has_model=True)
    rng = np.random.default_rng(n)
    memory = Memory(900, 1000, 16, 0)
    names = [f"cmpl-{i:032x}" for i in range(n)]
    found = []
    for step in range(N_STEPS):
        lens = [speculation.drafted_len(name) for name in names]
        klds = rng.uniform(0, 0.5, sum(lens)).astype(np.float32)
        accepted = [int(rng.integers(0, length + 1)) for length in lens]
        now = 1.0 + 0.01 * step
        started = perf_counter()
        rows = [Row(name, 1 + a, v, 40 + step, K, 99, step, 0.0, math.nan) for name, a, v in zip(names, accepted, lens)]
        speculation.observe(rows, Pass(n + sum(lens), 0), dsde.Divergence(klds, klds, klds, klds), now - 0.005, now)
        depth = speculation.plan(rows, None, memory, now)
        speculation.drafted([depth] * n, None, 0.002)
        chains = [[0] * depth for _ in names]
        for name, chain in zip(names, chains):
            del chain[speculation.drafted_len(name) :]
        found.append(1e6 * (perf_counter() - started))
    return found[20:]


def main() -> None:
    for policy in ["dsde", "dsde:cap=mean", "auto", "fixed:k=4"]:
        medians = []
        for n in BATCHES:
            found = sorted(steps(policy, n))
            medians.append(statistics.median(found))
            print(f"{policy:16} {n:4} requests: median {medians[-1]:8.1f} us, 90 % below {found[int(0.9 * len(found))]:8.1f} us")
        slope, base = np.polyfit(BATCHES, medians, 1)
        print(f"{policy:16} {base:.0f} us + {slope:.1f} us per request")
    rng = np.random.default_rng(0)
    target, draft = (rng.normal(0, 3, (32, VOCAB)).astype(np.float32) for _ in range(2))
    times = []
    for _ in range(20):
        started = perf_counter()
        dsde.divergence(target, draft)
        times.append(1e6 * (perf_counter() - started) / 32)
    print(f"divergence over {VOCAB} tokens: median {statistics.median(times):.1f} us per position")


if __name__ == "__main__":
    main()
