"""vLLM's batch as rows of numbers, and the policy's lengths as vLLM's drafts."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from dsde import Divergence
from dsde.vllm import settings
from dsde.vllm.signals import Kept, Positions, compare, shapes
from dsde.vllm.speculation import Memory, Pass, Row, Speculation

logger = logging.getLogger("vllm.dsde")

_GREEDY_BELOW = 1e-5
"""Temperature under which vLLM decodes greedily (`_SAMPLING_EPS`)."""

_TPOT_KEY = "tpot_ms_max"
"""Of a request's `extra_args`: bound on its mean time per token, milliseconds; `auto` and `adaserve` heed it."""


@dataclass(slots=True, frozen=True)
class _Wish:
    """What a request asks for, as far as policies care."""

    max_tokens: int
    stops: frozenset[int]
    """Tokens that end it."""
    temperature: float
    """0 is greedy."""
    tpot_max: float
    """Seconds; nan where there is none."""

    @classmethod
    def of(cls, params: Any) -> _Wish:
        stops = set(params.stop_token_ids or ())
        if params.eos_token_id is not None:
            stops.add(params.eos_token_id)
        tpot_ms = (params.extra_args or {}).get(_TPOT_KEY)
        return cls(
            max_tokens=params.max_tokens if params.max_tokens is not None else sys.maxsize,
            stops=frozenset(stops),
            temperature=params.temperature if params.temperature >= _GREEDY_BELOW else 0.0,
            tpot_max=math.nan if tpot_ms is None else float(tpot_ms) / 1e3,
        )


class Adapter:
    """What the hooks of one model runner ask."""

    def __init__(self, runner: Any, config: Any) -> None:
        specification = settings.specification(os.environ, config.additional_config)
        method = config.speculative_config.method
        self._runner = runner
        self._has_model = method != "ngram"
        self._speculation = Speculation(settings.policy(specification), self._has_model)
        self._kept = Kept()
        self._kept_row: dict[str, int] = {}
        self._is_drawn = getattr(runner.drafter, "_enable_probabilistic_draft_probs", False)
        self._rows: list[Row] = []
        self._unread = 0
        """Tokens of prompts that the batch has yet to read."""
        self._wishes: dict[str, _Wish] = {}
        self._differences: Divergence | None = None
        self._scheduled: Any = None
        self._started = self._draft_started = 0.0
        self._trace = _Trace.of_environment()
        logger.info("dsde-vllm: policy %s, drafting by %s, at most %d tokens", self._speculation.policy.name, method, runner.num_spec_tokens)

    def begin(self, scheduled: Any) -> None:
        """A step begins."""
        self._started = perf_counter()
        self._speculation.forget(scheduled.finished_req_ids)
        for request in scheduled.finished_req_ids:
            self._wishes.pop(request, None)
        self._scheduled = scheduled
        self._differences = None

    def compare(self, logits: Any, metadata: Any) -> None:
        """Measures the divergence at every verified position, if the policy reads it and the drafter has a distribution."""
        rounds = self._kept.rounds
        if metadata is None or not rounds or not self._speculation.policy.reads_divergence:
            return
        if rounds[0].shape[-1] != logits.shape[-1]:
            return
        since = perf_counter()
        lens, rows = [], []
        for request, n_drafts in zip(self._runner.input_batch.req_ids, metadata.num_draft_tokens, strict=True):
            row = self._kept_row.get(request)
            known = 0 if row is None else min(n_drafts, self._speculation.drafted_len(request), len(rounds))
            lens.append(known)
            rows.append(0 if row is None else row)
        n_rows = np.asarray(metadata.num_draft_tokens, dtype=np.int64) + 1
        temperatures = self._temperatures()
        positions = Positions(
            starts=np.cumsum(n_rows) - n_rows,
            lens=np.asarray(lens, dtype=np.int64),
            draft_rows=np.asarray(rows, dtype=np.int64),
            temperatures=temperatures,
        )
        self._differences = compare(logits, self._kept, positions)
        if not self._is_drawn:
            # The draft's largest token is no sample of its distribution, so the distance says nothing about its rejection.
            is_sampled = np.repeat(temperatures > 0, positions.lens)
            self._differences.rejections[is_sampled] = math.nan
        self._trace.spent("signals", since)

    def observe(self, sampled: Any) -> None:
        """Tells the policy what the target pass achieved."""
        now = perf_counter()
        self._rows, target = self._read(sampled.tolist())
        self._speculation.observe(self._rows, target, self._differences, self._started, now)
        self._kept.rounds.clear()
        self._trace.spent("observe", now)

    def plan(self, scheduled_len: int) -> int | None:
        """How deep to draft for the next pass; a drafter without a model drafts as far as it can and is planned for afterwards."""
        self._draft_started = perf_counter()
        if not self._has_model:
            return scheduled_len
        self._limit(scheduled_len)
        depth = self._speculation.plan(self._rows, None, self._memory(), self._draft_started)
        self._trace.spent("plan", self._draft_started)
        return depth

    def keeping_logits(self) -> AbstractContextManager[None]:
        """While drafting: keeps the draft's logits, if anybody will read them."""
        policy = self._speculation.policy
        if not self._has_model:
            return nullcontext()
        return self._kept.listening(self._runner.drafter, policy.reads_divergence or policy.reads_draft_shape)

    def drafted(self, drafts: Any) -> None:
        """Lets the policy shorten what was drafted."""
        batch, speculation = self._runner.input_batch, self._speculation
        self._kept_row = {request: i for i, request in enumerate(batch.req_ids)}
        lens = [len(chain) for chain in drafts] if isinstance(drafts, list) else [drafts.shape[1]] * drafts.shape[0]
        since = perf_counter()
        if not self._has_model:
            self._limit(self._runner.num_spec_tokens)
            speculation.plan(self._rows, lens, self._memory(), since)
        self._kept.is_scaled = self._is_drawn and not batch.sampling_metadata.all_greedy
        rows = [self._kept_row[request] for request in speculation.planned_requests()]
        speculation.drafted([lens[row] for row in rows], self._shapes(rows), self._draft_time(since))
        self._trace.spent("trim", since)

    def cut(self, requests: list[str], drafts: list[list[int]]) -> None:
        """Cuts every request's drafts to its length."""
        since = perf_counter()
        if self._runner.device.type != "cpu":
            # A device drafts while its host goes on; only now the drafts are there.
            self._speculation.draft_time = self._draft_time(since)
        for request, chain in zip(requests, drafts, strict=True):
            del chain[self._speculation.drafted_len(request) :]
        self._trace.spent("cut", since)
        self._trace.write(self._speculation, requests, drafts, self._differences)

    def _draft_time(self, now: float) -> float:
        """What drafting took until now; of a model, without the pass that reads what was emitted, which vLLM never leaves out."""
        whole, depth = now - self._draft_started, self._speculation.depth
        if not self._has_model:
            return whole
        if self._runner.device.type != "cpu" or self._kept.since is None:
            # When a device began its second pass, its host does not know.
            return whole * max(depth - 1, 0) / max(depth, 1)
        return now - self._kept.since

    def _shapes(self, rows: list[int]) -> Any | None:
        """Entropy and largest probability, `[n_requests, depth]` each, of the given rows."""
        if not self._kept.rounds or not self._speculation.policy.reads_draft_shape:
            return None
        found = shapes(self._kept, self._temperatures())
        entropies = np.stack([np.nan_to_num(entropies) for entropies, _ in found], axis=1)
        top_probs = np.stack([np.clip(np.nan_to_num(top_probs), 0.0, 1.0) for _, top_probs in found], axis=1)
        return entropies[rows], top_probs[rows]

    def _read(self, sampled: list[list[int]]) -> tuple[list[Row], Pass]:
        """The batch after its target pass, out of the tokens that it drew; -1 stands where a draft was rejected."""
        batch, scheduled = self._runner.input_batch, self._scheduled
        n = len(batch.req_ids)
        drafts, vocab = scheduled.scheduled_spec_decode_tokens, batch.vocab_size
        is_discarded = self._runner.discard_request_mask.np[:n].tolist()
        stored, known = batch.num_computed_tokens_cpu[:n].tolist(), batch.num_tokens_no_spec[:n].tolist()
        prompt_lens = batch.num_prompt_tokens[:n].tolist()
        rows, prefill_rows, self._unread = [], 0, 0
        for i, request in enumerate(batch.req_ids):
            if stored[i] < prompt_lens[i]:
                read = scheduled.num_scheduled_tokens[request]
                prefill_rows += read
                self._unread += max(prompt_lens[i] - stored[i] - read, 0)
            emitted = [] if is_discarded[i] else [token for token in sampled[i] if 0 <= token < vocab]
            chain = drafts.get(request)
            rows.append(self._row(request, emitted, known[i], prompt_lens[i], len(chain) if chain else 0))
        return rows, Pass(scheduled.total_num_scheduled_tokens, prefill_rows)

    def _row(self, request: str, emitted: list[int], known: int, prompt_len: int, verified: int) -> Row:
        wish = self._wish(request)
        len_ = known + len(emitted)
        total = len_ - prompt_len
        remaining = min(self._runner.max_model_len - len_, wish.max_tokens - total)
        if wish.stops and not wish.stops.isdisjoint(emitted):
            remaining = 0
        return Row(
            request=request,
            emitted=len(emitted),
            verified=verified,
            context_len=max(len_ - 1, 0),
            # The target emits a token more than it accepts.
            limit=max(remaining - 1, 0),
            remaining=max(remaining, 0),
            total=max(total, 0),
            temperature=wish.temperature,
            tpot_max=wish.tpot_max,
        )

    def _wish(self, request: str) -> _Wish:
        wish = self._wishes.get(request)
        if wish is None:
            wish = self._wishes[request] = _Wish.of(self._runner.requests[request].sampling_params)
        return wish

    def _limit(self, scheduled_len: int) -> None:
        """No proposal longer than vLLM was told to schedule."""
        for row in self._rows:
            row.limit = min(row.limit, scheduled_len)

    def _temperatures(self) -> npt.NDArray[np.float64]:
        return np.asarray([self._wish(request).temperature for request in self._runner.input_batch.req_ids])

    def _memory(self) -> Memory:
        """Blocks as far as a worker knows them: those of the batch are taken, all others are free or can be evicted."""
        runner, batch = self._runner, self._runner.input_batch
        table = batch.block_table[0]
        total = int(runner.kv_cache_config.num_blocks)
        taken = int(table.num_blocks_per_row[: len(batch.req_ids)].sum())
        return Memory(max(total - taken, 0), total, int(table.block_size), min(self._unread, runner.max_num_tokens))


class _Trace:
    """Steps as lines of JSON, if the environment names a file: planned, drafted and verified lengths, divergences, and what the
    plugin itself took, in microseconds."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._spent: dict[str, float] = {}

    @classmethod
    def of_environment(cls) -> _Trace:
        path = os.environ.get(settings.TRACE)
        return cls(open(path, "a", encoding="utf-8") if path else None)

    def spent(self, what: str, since: float) -> None:
        self._spent[what] = self._spent.get(what, 0.0) + perf_counter() - since

    def write(self, speculation: Speculation, requests: list[str], drafts: list[list[int]], differences: Divergence | None) -> None:
        if self._file is not None:
            line = {
                "requests": requests,
                "depth": speculation.depth,
                "lens": [len(chain) for chain in drafts],
                "klds": [] if differences is None else [round(float(kld), 5) for kld in differences.klds],
                "us": {what: round(1e6 * seconds, 1) for what, seconds in self._spent.items()},
            }
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        self._spent.clear()
