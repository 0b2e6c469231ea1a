"""What a policy sees before a step, and what it learns from it: one column per number, one entry per sequence.

Columns are lists or NumPy arrays of any numeric type. A column that is left out has the default that its line states. Everything is
checked when a policy is asked; what is wrong raises `ValueError` or `TypeError` with the column, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Column: TypeAlias = Sequence[int] | Sequence[float] | npt.NDArray[np.integer[Any]] | npt.NDArray[np.floating[Any]]


@dataclass(slots=True)
class Batch:
    """The sequences that could speculate in a step: their prompts are stored, and one token of each waits to be processed.

    Lengths are tokens, times seconds.
    """

    seqs: Column
    """Number of each sequence, 0 to 2^63 - 1; unique for the life of the policy."""

    limits: Column | None = None
    """Largest length that still makes sense: configuration, context, remaining tokens, and what a drafter without a model has to
    offer. `Policy.plan` plans no more. Left out: 0."""

    remaining: Column | None = None
    """Tokens that it may still emit, at least 1. Left out: one more than `limits`."""

    context_lens: Column | None = None
    """Positions whose keys and values the target has stored. Left out: 0."""

    draft_lags: Column | None = None
    """Tokens that the draft must read before it can guess, at least 1: the last one is always unread. Left out: 1."""

    temperatures: Column | None = None
    """Sampling temperature; 0 is greedy. Left out: 0."""

    emitted: Column | None = None
    """Tokens emitted so far. Left out: 0."""

    decode_times: Column | None = None
    """Time since the first token was emitted. Left out: 0."""

    tpots_max: Column | None = None
    """Bound that was asked for the mean time per token after the first; nan where there is none. Left out: none."""

    priorities: Column | None = None
    """Lower is more urgent. Left out: 0."""

    foreseen_lens: Column | None = None
    """Of a drafter that knows before planning what it will draft (n-grams, suffixes): the length of each sequence's chain.
    Such drafts are functions of the emitted tokens alone, so a plan may look at them. Left out: 0."""

    foreseen_entropies: Column | None = None
    """Entropy of the distribution that the drafter estimates at each position of these chains, one chain behind the other; nats.
    Left out: 0."""

    foreseen_top_probs: Column | None = None
    """Largest probability of that distribution. Left out: 1, which is what a drafter without an estimate claims."""

    can_choose: Sequence[bool] | None = None
    """Whether a draft model could draft instead of what is foreseen; `Policy.takes_foreseen` answers. Left out: no."""

    prefill_rows: int = 0
    """Rows of prompts that share this step's target pass."""

    n_waiting: int = 0
    """Requests that wait for admission."""

    blocks_free: int = 1 << 20
    """Free key-value blocks, counting cached ones that can be evicted."""

    blocks_total: int = 1 << 20
    """All key-value blocks."""

    block_len: int = 16
    """Positions that a block holds."""

    now: float = 0.0
    """The host's clock at the start of the step; it may start anywhere and must not run backwards."""


@dataclass(slots=True)
class Feedback:
    """What a step achieved, of every sequence that emitted in it, and what it cost.

    Lengths are tokens, and `accepted <= verified <= drafted <= planned`. Times are seconds.
    """

    seqs: Column
    """Number of each sequence that emitted, whether it speculated or not."""

    verified: Column | None = None
    """Drafted tokens that were verified. Left out: 0."""

    accepted: Column | None = None
    """Verified tokens that were kept; one more was emitted. Left out: 0."""

    drafted: Column | None = None
    """Tokens that were drafted. Left out: as `verified`."""

    planned: Column | None = None
    """The planned length, after all bounds. Left out: as `drafted`."""

    temperatures: Column | None = None
    """Sampling temperature; 0 is greedy. Left out: 0."""

    klds: Column | None = None
    """KL(target || draft) at every verified position, rejected ones included, in nats; the positions of one sequence behind
    those of another. Left out: the drafter has no distribution, or nobody asked for it."""

    rejections: Column | None = None
    """Probability that a sampled draft is rejected there: the total variation distance. nan or left out: unknown."""

    draft_entropies: Column | None = None
    """Entropy of the draft there, nats. Left out: 0."""

    target_entropies: Column | None = None
    """Entropy of the target there, nats. Left out: 0."""

    signal_lens: Column | None = None
    """Positions of each sequence in the four columns above. Left out: `verified` where there are `klds`, else 0."""

    target_rows: int | None = None
    """Rows of the target pass, prompts included. Left out: 1 + verified of every sequence."""

    prefill_rows: int = 0
    """Rows of prompts among them."""

    draft_rounds: int | None = None
    """Passes of the draft model, the one that catches up included. Left out: the longest of `drafted`."""

    draft_rows: int | None = None
    """Rows of all those passes together. Left out: the sum of `drafted`."""

    context_lens: Column | None = None
    """Positions that each sequence had stored before. Left out: 0."""

    is_foreseen: list[bool] | None = None
    """Whether its drafts were known before the plan, so that drafting them took no pass. Left out: no."""

    draft_time: float = 0.0
    """Time spent on drafting."""

    verify_time: float = 0.0
    """Time of the target pass and the verdicts."""

    step_time: float | None = None
    """Time of the whole step. Left out: both together."""
