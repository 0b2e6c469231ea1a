"""A vLLM engine in a process of its own, asked through a pipe; every condition of a comparison is one."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Condition:
    """What an engine is started with."""

    name: str
    speculative: dict[str, Any] | None = None
    """vLLM's `speculative_config`."""
    policy: str = "vllm"
    """`DSDE_VLLM_POLICY`; `vllm` leaves vLLM alone."""
    trace: str | None = None
    """File of the plugin's step trace."""
    dtype: str = "float32"
    """In f32 sums in another order seldom change the largest logit; in bf16 they often do, with and without the plugin."""
    more: dict[str, Any] = field(default_factory=dict)
    """Other arguments of vLLM."""


class Engine:
    """A running engine."""

    def __init__(self, model: str, condition: Condition, n_seqs: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.condition = condition
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, model, condition, n_seqs))
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def generate(self, prompts: list[str], at_once: int | None = None, **params: Any) -> dict[str, Any]:
        """Answers prompts, all at once or so many: `tokens` of each, `seconds`, and `drafted` and `accepted` drafts."""
        self._pipe.send((prompts, at_once or len(prompts), params))
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: Connection, model: str, condition: Condition, n_seqs: int) -> None:
    os.environ |= {
        "DSDE_VLLM_POLICY": condition.policy,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if condition.trace is not None:
        os.environ["DSDE_VLLM_TRACE"] = condition.trace
    from vllm import LLM

    llm = LLM(
        model,
        dtype=condition.dtype,
        max_model_len=2048,
        max_num_seqs=n_seqs,
        # Room for 12,288 tokens, so that many engines fit beside each other.
        num_gpu_blocks_override=96,
        enforce_eager=True,
        enable_prefix_caching=False,
        disable_log_stats=False,
        distributed_executor_backend="uni",
        speculative_config=condition.speculative,
        **condition.more,
    )
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        prompts, at_once, params = asked
        try:
            before, started = _counters(llm), time.perf_counter()
            tokens = _answers(llm, prompts, at_once, params)
            seconds, after = time.perf_counter() - started, _counters(llm)
            counted = {name: after.get(name, 0) - before.get(name, 0) for name in ("drafted", "accepted")}
            pipe.send({"tokens": tokens, "seconds": seconds, **counted})
        except Exception as error:
            pipe.send(RuntimeError(f"{condition.name}: {error!r}"))


def _answers(llm: Any, prompts: list[str], at_once: int, params: dict[str, Any]) -> list[list[int]]:
    """Tokens of every answer in the order of the prompts; a prompt enters where an answer ends."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine, tokenizer = llm.llm_engine, llm.get_tokenizer()
    waiting = deque((str(i), {"prompt_token_ids": tokenizer.encode(prompt)}) for i, prompt in enumerate(prompts))
    found: dict[str, list[list[int]]] = {}
    n_entered = 0
    while len(found) < len(prompts):
        while waiting and n_entered - len(found) < at_once:
            engine.add_request(*waiting.popleft(), SamplingParams(**params, output_kind=RequestOutputKind.FINAL_ONLY))
            n_entered += 1
        for output in engine.step():
            if output.finished:
                found[output.request_id] = [list(choice.token_ids) for choice in output.outputs]
    return [tokens for i in range(len(prompts)) for tokens in found[str(i)]]


def _counters(llm: Any) -> dict[str, float]:
    names = {"vllm:spec_decode_num_draft_tokens": "drafted", "vllm:spec_decode_num_accepted_tokens": "accepted"}
    return {names[metric.name]: metric.value for metric in llm.get_metrics() if metric.name in names}
