"""Equations 1, 3, 4 and 8 to 11 of DSDE, step by step: the policy `dsde` beside the formulas in NumPy.

Yang et al., "DSDE: Dynamic Speculative Decoding with KLD Stability for Real-World Serving" (arXiv:2509.01083). Two sequences share a
batch; the draft of one stays close to the target, that of the other begins to drift. Logits are made up; everything behind them is
computed twice, and the lengths must agree. Run it with `python equations.py`.

Equations 2 and 5 to 7 are not reproduced, here or in the policy: their text was not known when it was written.
"""

import math

import numpy as np

import dsde

VOCAB = 512
STEPS = 24
SL_MIN, SL_MAX, K_INIT = 2, 20, 5
ACTIVATION, SHORT, LONG, DECAY = 30, 10, 30, 0.85


def kld(target: np.ndarray, draft: np.ndarray) -> np.ndarray:
    """KL(target || draft) of rows of logits, nats."""
    p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in (target.astype(float), draft.astype(float)))
    p, q = (np.maximum(x / x.sum(-1, keepdims=True), 1e-8) for x in (p, q))
    return np.asarray((p * np.log(p / q)).sum(-1))


def variance(values: list[float], n: int) -> float:
    """Weighted variance of the `n` newest values, weight `DECAY^age`."""
    recent = np.asarray(values[-n:])
    weights = DECAY ** np.arange(len(recent))[::-1]
    mean = np.average(recent, weights=weights)
    return float(np.average((recent - mean) ** 2, weights=weights))


class Formulas:
    """One sequence by the paper, and where it is silent by its released code."""

    def __init__(self) -> None:
        self.klds: list[float] = []
        self.calibration: list[float] = []
        self.accepted_max = self.proposed = 0
        self.length = K_INIT
        self.ceiling: int | None = None

    def learn(self, klds: np.ndarray, accepted: int) -> None:
        n = len(klds)
        self.klds.extend(klds)
        if self.ceiling is None:
            self.calibration.extend(klds)
            self.proposed += n
            self.accepted_max = max(self.accepted_max, accepted)
            self.length = min(2 * self.length, SL_MAX) if accepted >= self.length else max(self.length, SL_MIN)
            if self.proposed < ACTIVATION:
                return
            # Eq. 1.
            ratio = np.mean(self.calibration) / max(self.calibration)
            self.ceiling = int(np.clip(round(self.accepted_max * (1 + ratio)), SL_MIN, SL_MAX))
        # Eq. 3.
        scale_factor = math.exp(2 * np.mean(klds)) - 1
        # Eq. 4.
        wvir = variance(self.klds, SHORT) / variance(self.klds[-LONG:], LONG)
        # Eq. 8.
        penalty = scale_factor * wvir
        self.length = math.ceil((1 - penalty) * (self.ceiling - SL_MIN) + SL_MIN) if penalty <= 1 else SL_MIN

    @property
    def is_settled(self) -> bool:
        return self.ceiling is not None


def capped(sequences: list[Formulas]) -> list[int]:
    """Eqs. 9 to 11: the length nearest to all of the batch is their mean; no settled sequence drafts further."""
    settled = [s.length for s in sequences if s.is_settled]
    cap = math.ceil(np.mean(settled)) if settled else SL_MAX
    return [min(s.length, cap) if s.is_settled else s.length for s in sequences]


def row(explained: list[dict[str, float]], name: str) -> str:
    """A number of both sequences; nan while they calibrate."""
    return " ".join(f"{numbers.get(name, math.nan):8.4f}" for numbers in explained)


def main() -> None:
    rng = np.random.default_rng(7)
    policy = dsde.Policy("dsde:cap=mean")
    formulas = [Formulas(), Formulas()]
    print(f"policy {policy.name}")
    print("step  planned    mean KLD         SF               WVIR")
    for step in range(STEPS):
        plan = policy.plan(dsde.Batch(seqs=[0, 1], limits=[SL_MAX, SL_MAX]))
        lens = plan.lens.tolist()
        assert lens == capped(formulas), (lens, capped(formulas))

        # The draft of sequence 1 drifts in the second half.
        noise = [0.35, 0.35 if step < STEPS // 2 else 0.9]
        accepted, klds = [], []
        for length, spread in zip(lens, noise):
            target = rng.normal(0, 2, (length, VOCAB)).astype(np.float32)
            draft = target + rng.normal(0, spread, target.shape).astype(np.float32)
            found = dsde.divergence(target, draft)
            assert np.allclose(found.klds, kld(target, draft), atol=2e-5)
            klds.append(found.klds)
            accepted.append(int((rng.random(length) > found.rejections).cumprod().sum()))

        policy.observe(
            dsde.Feedback(seqs=[0, 1], planned=lens, verified=lens, accepted=accepted, klds=np.concatenate(klds))
        )
        for formula, own, n in zip(formulas, klds, accepted):
            formula.learn(own.astype(float), n)
        explained = [policy.explain(seq) for seq in (0, 1)]
        means = " ".join(f"{own.mean():7.4f}" for own in klds)
        print(f"{step:4}  {lens[0]:3} {lens[1]:3}  {means}  {row(explained, 'scale_factor')}  {row(explained, 'wvir')}")
    print(f"{STEPS} steps, all lengths as by the formulas")


if __name__ == "__main__":
    main()
