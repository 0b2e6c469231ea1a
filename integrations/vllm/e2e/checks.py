"""What must hold with a real vLLM: greedy output is that without speculation, lengths differ, sampled output keeps its distribution.

    python checks.py MODEL WORK [DRAFTER=FOLDER ...]

`WORK` is a folder for traces. Drafters are `draft_model` and `eagle3`; n-grams are always checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from dsde.vllm import cpu_sampling, signals
from engine import Condition, Engine
from prompts import prompts

K = 6
POLICIES = ["dsde", "dsde:cap=mean", "auto", "fixed:k=3", "confidence:p_min=0.4"]
N_SAMPLES = 400


def speculative(drafter: str, folder: str | None) -> dict:
    """vLLM's configuration of a drafter."""
    if drafter == "ngram":
        return {"method": "ngram", "num_speculative_tokens": K, "prompt_lookup_min": 2, "prompt_lookup_max": 5}
    return {"method": drafter, "model": folder, "num_speculative_tokens": K}


def main() -> None:
    model, work = sys.argv[1], Path(sys.argv[2])
    drafters: dict[str, str | None] = {"ngram": None} | dict(pair.split("=", 1) for pair in sys.argv[3:])
    compiled_divergence_is_that_of_tensors()
    unknown_version_is_left_alone()
    questions = prompts(model)
    greedy = {"temperature": 0.0, "max_tokens": 64}
    plain = Engine(model, Condition("off"), len(questions))
    expected = plain.generate(questions, **greedy)["tokens"]
    for drafter, folder in drafters.items():
        for policy in POLICIES:
            trace = work / f"{drafter}-{policy.replace(':', '-')}.jsonl"
            trace.unlink(missing_ok=True)
            engine = Engine(model, Condition(policy, speculative(drafter, folder), policy, str(trace)), len(questions))
            got = engine.generate(questions, **greedy)
            engine.close()
            report(f"{drafter:12} {policy:32}", trace, got, expected)
    for drafter, folder in drafters.items():
        sampled_output_keeps_its_distribution(model, plain, drafter, folder)
    plain.close()


def report(name: str, trace: Path, got: dict, expected: list[list[int]]) -> None:
    """Checks a greedy run and says what it was like."""
    same = sum(a == b for a, b in zip(got["tokens"], expected, strict=True))
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    lens = Counter(n for step in steps for n in step["lens"])
    differing = sum(len(set(step["lens"])) > 1 for step in steps)
    depths = sorted({step["depth"] for step in steps})
    own = sum(us for step in steps for what, us in step["us"].items() if what != "signals")
    n_requests = sum(len(step["lens"]) for step in steps)
    print(
        f"{name} equal {same}/{len(expected)}, drafted {got['drafted']:.0f}, accepted {got['accepted']:.0f}, "
        f"steps {len(steps)}, of differing lengths {differing}, depths {depths}, lengths {dict(sorted(lens.items()))}, "
        f"{own / len(steps):.0f} us per step at {n_requests / len(steps):.1f} requests",
        flush=True,
    )
    assert got["drafted"] > 0 and got["accepted"] > 0, "speculation has to take place"
    assert max(lens) <= K
    # While costs are learnt, and where drafting does not pay, `auto` has one length for all.
    assert differing > 0 or " fixed:" in name or " auto " in name, "lengths have to differ between requests"
    assert same == len(expected), "greedy output has to be that without speculation"


def sampled_output_keeps_its_distribution(model: str, plain: Engine, drafter: str, folder: str | None) -> None:
    """Compares the second to fourth tokens of many samples; two runs without speculation show what chance does."""
    prompt, params = "The best way to", {"temperature": 0.8, "max_tokens": 4, "n": N_SAMPLES}
    config = speculative(drafter, folder) | ({} if drafter == "ngram" else {"draft_sample_method": "probabilistic"})
    engine = Engine(model, Condition("dsde", config, "dsde"), 16)
    got = engine.generate([prompt], **params)
    engine.close()
    runs = [plain.generate([prompt], **params)["tokens"] for _ in range(2)]
    chance, found = (distance(run, runs[0]) for run in (runs[1], got["tokens"]))
    print(f"{drafter:12} sampled: distance {found:.3f}, of two plain runs {chance:.3f}; accepted {got['accepted']:.0f}", flush=True)
    assert found < chance + 0.08, "sampled output has to follow the target's distribution"


def distance(one: list[list[int]], other: list[list[int]]) -> float:
    """Largest total variation distance of the tokens at one position."""
    found = []
    for i in range(1, 4):
        a, b = (Counter(tokens[i] for tokens in run if len(tokens) > i) for run in (one, other))
        found.append(sum(abs(a[token] - b[token]) for token in a | b) / (2 * N_SAMPLES))
    return max(found)


def compiled_divergence_is_that_of_tensors() -> None:
    """The pass for CPUs against the operations for other devices, which run on a CPU too."""
    generator = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        target, draft = ((3 * torch.randn(5, 3000, generator=generator)).to(dtype) for _ in range(2))
        at, rows = np.array([1.0, 0.7, 1.3]), np.array([4, 0, 2])
        one, other = (run(target, rows, at, draft, rows[::-1].copy(), at) for run in (signals._on_cpu, signals._on_device))
        for compiled, tensors in zip(one, other, strict=True):
            np.testing.assert_allclose(compiled, tensors, rtol=1e-4, atol=1e-5)
    assert not cpu_sampling.is_faulty(cpu_sampling.expand_batch_to_tokens)


def unknown_version_is_left_alone() -> None:
    """One warning, and no method is wrapped."""
    code = (
        "import vllm; vllm.__version__ = '9.9.9'; import dsde.vllm; dsde.vllm.register(); dsde.vllm.register()\n"
        "from vllm.v1.worker.worker_base import WorkerBase; assert not hasattr(WorkerBase.__init__, 'is_of_dsde')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"DSDE_VLLM_POLICY": "dsde"})
    assert done.returncode == 0, done.stderr
    warned = [line for line in (done.stdout + done.stderr).splitlines() if "dsde-vllm leaves vLLM as it is" in line]
    assert len(warned) == 1, done.stderr
    print(warned[0][warned[0].index("dsde-vllm") :], flush=True)


if __name__ == "__main__":
    main()
