"""A step of the host as the policy sees it; knows neither vLLM nor torch.

The host verifies what it drafted a step before. So a step of the policy begins with `plan`, goes on with `drafted`, and ends with
`observe` after the host's next target pass.

The host's draft model reads whatever the target emitted, whether anybody drafts or not. So that pass is part of the step, as the
target's is, and drafting is what comes behind it: policies would else take plain decoding for cheaper than it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsde import Batch, Divergence, Feedback, Policy


@dataclass(slots=True)
class Row:
    """A request after a target pass; lengths are tokens."""

    request: str
    emitted: int
    """In this pass; 0 while the prompt is being read."""
    verified: int
    """Drafts that this pass verified."""
    context_len: int
    """Positions that the target has stored, rejected drafts not counted."""
    limit: int
    """Longest useful proposal for the next pass; 0 for a request that ends here."""
    remaining: int
    """Tokens that it may still emit; 0 for a request that ends here."""
    total: int
    """Tokens emitted so far, this pass included."""
    temperature: float
    """0 is greedy."""
    tpot_max: float
    """Bound on the mean time per token, seconds; nan where there is none."""


@dataclass(slots=True)
class Pass:
    """A target pass."""

    rows: int
    """Query positions, prompts included."""
    prefill_rows: int
    """Those of prompts."""


@dataclass(slots=True)
class Memory:
    """Key-value blocks, and the prompts that will share the next pass."""

    blocks_free: int
    blocks_total: int
    block_len: int
    prefill_rows: int


@dataclass(slots=True)
class _Sequence:
    number: int
    first_token: float | None = None
    planned: int = 0
    drafted: int = 0
    verify_len: int = 0


class Speculation:
    """Asks a policy on behalf of a host. Requests are known by their names, lengths are tokens, times seconds of the host's clock."""

    def __init__(self, policy: Policy, has_model: bool) -> None:
        self.policy = policy
        self.depth = 0
        """Longest planned length of this step."""
        self._has_model = has_model
        self._sequences: dict[str, _Sequence] = {}
        self._n_seen = 0
        self._batch: Batch | None = None
        self._rows: list[Row] = []
        self._planned_at = math.nan
        self.draft_time = 0.0
        """What drafting took, once it is known, without the pass that reads."""

    def forget(self, requests: Iterable[str]) -> None:
        """Drops requests that have ended."""
        for request in requests:
            sequence = self._sequences.pop(request, None)
            if sequence is not None:
                self.policy.forget(sequence.number)

    def drafted_len(self, request: str) -> int:
        """Drafts of a request that were handed to the host for verification."""
        sequence = self._sequences.get(request)
        return 0 if sequence is None else sequence.verify_len

    def observe(self, rows: Sequence[Row], target: Pass, differences: Divergence | None, started: float, now: float) -> None:
        """Tells the policy what a target pass made of the last plan; without a plan there is nothing to tell.

        * `differences`: of the verified positions of all rows, in their order; `None` if the drafter has no distribution or nobody asked.
        * `started`: when the target pass began.
        """
        if self._batch is None:
            return
        self._batch = None
        emitting = [row for row in rows if row.emitted > 0]
        sequences = [self._sequence(row.request) for row in emitting]
        # What was handed over bounds what counts: the host may verify padding of its own.
        verified = [min(row.verified, sequence.verify_len) for row, sequence in zip(emitting, sequences, strict=True)]
        goes_on = any(sequence.first_token is not None for sequence in sequences)
        klds = rejections = draft_entropies = target_entropies = None
        if differences is not None:
            klds, rejections, draft_entropies, target_entropies = differences
        self.policy.observe(
            Feedback(
                seqs=[sequence.number for sequence in sequences],
                planned=[sequence.planned for sequence in sequences],
                drafted=[sequence.drafted for sequence in sequences],
                verified=verified,
                accepted=[min(row.emitted - 1, n) for row, n in zip(emitting, verified, strict=True)],
                temperatures=[row.temperature for row in emitting],
                klds=klds,
                rejections=rejections,
                draft_entropies=draft_entropies,
                target_entropies=target_entropies,
                target_rows=target.rows,
                prefill_rows=target.prefill_rows,
                draft_rounds=self.depth if self._has_model else 0,
                draft_rows=sum(sequence.drafted for sequence in sequences) if self._has_model else 0,
                context_lens=[row.context_len - row.emitted for row in emitting],
                is_foreseen=[not self._has_model] * len(emitting),
                draft_time=self.draft_time,
                verify_time=now - started,
                # A host that had nothing to do in between has not spent that time on a step.
                step_time=now - self._planned_at if goes_on else self.draft_time + now - started,
            )
        )
        for sequence in self._sequences.values():
            # Whatever is handed over without a new plan is not verified.
            sequence.planned = sequence.drafted = sequence.verify_len = 0

    def plan(self, rows: Sequence[Row], offers: Sequence[int] | None, memory: Memory, now: float) -> int:
        """Plans a length for every request that goes on.

        * `rows`: those of the last target pass.
        * `offers`: of a drafter without a model, how many drafts it has for each row; `None` of a draft model.
        * Returns the longest length.
        """
        chosen = [i for i, row in enumerate(rows) if row.emitted > 0 and row.remaining > 0]
        self._rows = [rows[i] for i in chosen]
        sequences = [self._sequence(row.request) for row in self._rows]
        limits = [row.limit for row in self._rows]
        if offers is not None:
            limits = [min(limit, offers[i]) for limit, i in zip(limits, chosen, strict=True)]
        self._batch = Batch(
            seqs=[sequence.number for sequence in sequences],
            limits=limits,
            remaining=[row.remaining for row in self._rows],
            context_lens=[row.context_len for row in self._rows],
            temperatures=[row.temperature for row in self._rows],
            emitted=[row.total for row in self._rows],
            decode_times=[0.0 if s.first_token is None else now - s.first_token for s in sequences],
            tpots_max=[row.tpot_max for row in self._rows],
            foreseen_lens=None if offers is None else limits,
            prefill_rows=memory.prefill_rows,
            blocks_free=memory.blocks_free,
            blocks_total=memory.blocks_total,
            block_len=memory.block_len,
            now=now,
        )
        lens = self.policy.plan(self._batch).lens.tolist()
        for sequence, planned in zip(sequences, lens, strict=True):
            sequence.planned = planned
            sequence.first_token = now if sequence.first_token is None else sequence.first_token
        self.depth = max(lens, default=0)
        self._planned_at = now
        return self.depth

    def drafted(self, lens: Sequence[int], shapes: Any | None, draft_time: float) -> None:
        """Lets the policy stop and trim what was drafted for the requests of the plan, in its order.

        * `lens`: drafts of each, in the order of `planned_requests`.
        * `shapes`: `(entropies, top_probs)`, each `[n_requests, depth]`, if the policy reads them.
        * `draft_time`: what drafting took.
        """
        assert self._batch is not None
        sequences = [self._sequences[row.request] for row in self._rows]
        for i, (sequence, drafted) in enumerate(zip(sequences, lens, strict=True)):
            sequence.drafted = self._stopped_len(sequence, min(drafted, sequence.planned), shapes, i)
        stopped = [sequence.drafted for sequence in sequences]
        verify_lens = stopped
        if any(stopped):
            entropies = top_probs = None
            if shapes is not None:
                is_kept = np.arange(self.depth) < np.asarray(stopped)[:, None]
                entropies, top_probs = shapes[0][is_kept], shapes[1][is_kept]
            verify_lens = self.policy.trim(self._batch, stopped, entropies, top_probs).tolist()
        for sequence, verify_len in zip(sequences, verify_lens, strict=True):
            sequence.verify_len = verify_len
        self.draft_time = draft_time

    def planned_requests(self) -> list[str]:
        """Names of the requests of the last plan, in its order."""
        return [row.request for row in self._rows]

    def _stopped_len(self, sequence: _Sequence, drafted: int, shapes: Any | None, i: int) -> int:
        """Where a proposal ends by the policy's rule; the tokens behind were drafted with the batch, and nobody verifies them."""
        path_log_prob = 0.0
        for index in range(drafted):
            entropy, top_prob = (0.0, 1.0) if shapes is None else (float(shapes[0][i, index]), float(shapes[1][i, index]))
            path_log_prob += math.log(top_prob) if top_prob > 0.0 else -math.inf
            is_last = index + 1 == sequence.planned
            if not is_last and not self.policy.keep_drafting(sequence.number, index, entropy, top_prob, path_log_prob):
                return index + 1
        return drafted

    def _sequence(self, request: str) -> _Sequence:
        sequence = self._sequences.get(request)
        if sequence is None:
            sequence = self._sequences[request] = _Sequence(self._n_seen)
            self._n_seen += 1
        return sequence
