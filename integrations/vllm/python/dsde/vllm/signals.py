"""Divergence of target and draft from the logits of both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dsde import Divergence, _dsde

KLD_MAX = 8 * math.log(10)
"""Largest possible divergence, nats, as probabilities are clamped below at 1e-8; stands for what a broken model leaves."""

_LOG_PROBABILITY_MIN = -KLD_MAX


@dataclass(slots=True)
class Kept:
    """Logits of the draft, kept from drafting until the target has read the drafts, and when there were the first."""

    rounds: list[torch.Tensor] = field(default_factory=list)
    """Of every draft pass that drew: `[n_requests, vocab]`."""
    is_scaled: bool = False
    """Whether drafting has divided rows of sampled requests by their temperatures."""
    since: float | None = None
    """When the draft model had read what was new, seconds of `perf_counter`; `None` if it was not asked for logits."""

    @contextmanager
    def listening(self, drafter: Any, is_read: bool) -> Iterator[None]:
        """Notes when the draft model computes logits meanwhile, and keeps them if somebody will read them."""
        self.rounds.clear()
        self.since = None
        model = getattr(drafter, "model", None)
        original = getattr(model, "compute_logits", None)
        if model is None or original is None:
            yield
            return
        is_read = is_read and not getattr(drafter, "use_heterogeneous_vocab", False)

        def compute_logits(*args: Any, **kwargs: Any) -> Any:
            self.since = perf_counter() if self.since is None else self.since
            logits = original(*args, **kwargs)
            if is_read and logits is not None:
                self.rounds.append(logits)
            return logits

        model.compute_logits = compute_logits
        try:
            yield
        finally:
            del model.compute_logits


@dataclass(slots=True)
class Positions:
    """Verified positions of several requests."""

    starts: npt.NDArray[np.int64]
    """Row of the target's logits that judges the first draft of each request."""
    lens: npt.NDArray[np.int64]
    """Verified drafts of each request."""
    draft_rows: npt.NDArray[np.int64]
    """Row of each request in every kept round."""
    temperatures: npt.NDArray[np.float64]
    """Of each request; 0 is greedy."""


def compare(target: torch.Tensor, kept: Kept, positions: Positions) -> Divergence:
    """Compares target and draft at every position, those of one request behind those of another.

    Sampled requests at their temperature, greedy ones at 1; before top-k and top-p.

    * `target`: `[n_rows, vocab]`.
    """
    ends = np.cumsum(positions.lens)
    offsets, n = ends - positions.lens, int(ends[-1]) if len(ends) else 0
    found = [np.zeros(n, dtype=np.float32) for _ in range(4)]
    temperatures = np.where(positions.temperatures > 0, positions.temperatures, 1.0)
    run = _on_cpu if target.device.type == "cpu" else _on_device
    for i, draft in enumerate(kept.rounds[: int(positions.lens.max(initial=0))]):
        is_there = positions.lens > i
        at = temperatures[is_there]
        columns = run(
            target,
            positions.starts[is_there] + i,
            at,
            draft,
            positions.draft_rows[is_there],
            np.ones_like(at) if kept.is_scaled else at,
        )
        for whole, part in zip(found, columns, strict=True):
            whole[offsets[is_there] + i] = part
    klds, rejections, draft_entropies, target_entropies = found
    return Divergence(
        np.nan_to_num(klds, nan=KLD_MAX, posinf=KLD_MAX),
        np.clip(rejections, 0.0, 1.0),
        np.nan_to_num(draft_entropies, posinf=0.0),
        np.nan_to_num(target_entropies, posinf=0.0),
    )


def shapes(kept: Kept, temperatures: npt.NDArray[np.float64]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Entropy and largest probability of every kept row, per round.

    * `temperatures`: per request; 0 is greedy, which is measured at 1.
    """
    at = np.where(temperatures > 0, temperatures, 1.0)
    found = []
    for logits in kept.rounds:
        each = np.ones_like(at) if kept.is_scaled else at
        if logits.device.type == "cpu":
            found.append(_dsde.shape(_as_numpy(logits), each))
        else:
            log_probs = _log_softmax(logits, each)
            entropies = torch.special.entr(log_probs.exp()).sum(-1)
            pair = torch.stack((entropies, log_probs.amax(-1).exp())).cpu().numpy()
            found.append((pair[0], pair[1]))
    return found


def _on_cpu(target: Any, target_rows: Any, target_at: Any, draft: Any, draft_rows: Any, draft_at: Any) -> Any:
    """In one pass per position, compiled."""
    return _dsde.compare(_as_numpy(target), target_rows, target_at, _as_numpy(draft), draft_rows, draft_at)


def _on_device(target: Any, target_rows: Any, target_at: Any, draft: Any, draft_rows: Any, draft_at: Any) -> Any:
    """By tensor operations where the logits are; also what the compiled pass is tested against."""
    log_p = _log_softmax(target[torch.as_tensor(target_rows, device=target.device)], target_at)
    log_q = _log_softmax(draft[torch.as_tensor(draft_rows, device=draft.device)], draft_at)
    p, q = log_p.exp(), log_q.exp()
    clamped_p, clamped_q = log_p.clamp_min(_LOG_PROBABILITY_MIN), log_q.clamp_min(_LOG_PROBABILITY_MIN)
    columns = torch.stack(
        (
            (clamped_p.exp() * (clamped_p - clamped_q)).sum(-1).clamp_min(0.0),
            (p - q).abs().sum(-1) / 2,
            torch.special.entr(q).sum(-1),
            torch.special.entr(p).sum(-1),
        )
    )
    return columns.cpu().numpy()


def _log_softmax(logits: torch.Tensor, temperatures: npt.NDArray[np.float64]) -> torch.Tensor:
    scale = torch.as_tensor(temperatures, dtype=torch.float32, device=logits.device)
    return (logits.float() / scale.unsqueeze(-1)).log_softmax(-1)


def _as_numpy(logits: torch.Tensor) -> npt.NDArray[Any]:
    """Without a copy for f32 and bf16, the latter as 16-bit words."""
    if logits.dtype == torch.bfloat16:
        logits = logits.view(torch.uint16)
    elif logits.dtype != torch.float32:
        logits = logits.float()
    return np.asarray(logits.numpy())
