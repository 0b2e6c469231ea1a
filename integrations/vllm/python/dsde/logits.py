"""What policies read of logits, computed on the CPU: one pass per row over the vocabulary."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsde import _dsde


class Divergence(NamedTuple):
    """Draft against target, one entry per position; nats."""

    klds: npt.NDArray[np.float32]
    """KL(target || draft) over the whole vocabulary, both clamped below at 1e-8 as in the authors' code of DSDE."""
    rejections: npt.NDArray[np.float32]
    """Total variation distance: the probability that a sampled draft is rejected."""
    draft_entropies: npt.NDArray[np.float32]
    """Entropy of the draft."""
    target_entropies: npt.NDArray[np.float32]
    """Entropy of the target."""


def divergence(
    target: npt.NDArray[np.float32], draft: npt.NDArray[np.float32], temperatures: float | npt.ArrayLike = 1.0
) -> Divergence:
    """Compares the softmax of logits `target[i] / temperatures[i]` with that of `draft[i] / temperatures[i]`.

    * `target`, `draft`: `[n_positions, vocab]`, float32, or uint16 whose bits are bf16.
    * `temperatures`: above 0; one for all or one per position. For greedy requests 1.
    """
    rows = np.arange(len(target))
    each = np.broadcast_to(np.asarray(temperatures, dtype=np.float64), (len(target),))
    return Divergence(*_dsde.compare(target, rows, each, draft, rows, each))


def draft_shape(
    logits: npt.NDArray[np.float32], temperatures: float | npt.ArrayLike = 1.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Entropy, nats, and largest probability of the softmax of every row `logits[i] / temperatures[i]`.

    Policies for which `Policy.reads_draft_shape` holds want them of every drafted position. They are functions of the text before
    the drafted token, so a length that depends on them favours no token.
    """
    each = np.broadcast_to(np.asarray(temperatures, dtype=np.float64), (len(logits),))
    return _dsde.shape(logits, each)
