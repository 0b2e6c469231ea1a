"""Where vLLM's model runner is entered.

A step of vLLM verifies what the step before drafted, and then drafts for the next:

    execute_model               the step begins; requests that ended are forgotten
    _sample                     target logits meet the kept draft logits, the policy observes
    propose_draft_token_ids     the policy plans; drafting stops at the longest length; draft logits are kept
    take_draft_token_ids        every request's drafts are cut to its length; the scheduler verifies what it gets

If the plugin fails in a step, it says so once and is not asked again: the runner goes on with vLLM's own length.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from dsde.vllm import support
from dsde.vllm.plugin import warn_once

logger = logging.getLogger("vllm.dsde")

_ADAPTER = "_dsde_adapter"


def install() -> None:
    """Wraps the model runner's methods; does nothing the second time, or if they are not those that were read."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if getattr(GPUModelRunner, "is_of_dsde", False):
        return
    reason = support.unknown_methods(GPUModelRunner)
    if reason is not None:
        warn_once(reason)
        return
    from dsde.vllm import cpu_sampling

    cpu_sampling.mend()
    for wrap in (_init, _execute_model, _sample, _propose, _take):
        name = wrap.__doc__ or ""
        setattr(GPUModelRunner, name, wrap(getattr(GPUModelRunner, name)))
    GPUModelRunner.is_of_dsde = True


def _asks(runner: Any, question: Callable[[Any], Any]) -> Any:
    """The adapter's answer; `None` if there is no adapter, or none any more."""
    adapter = runner.__dict__.get(_ADAPTER)
    if adapter is None:
        return None
    try:
        return question(adapter)
    except Exception:
        logger.exception("dsde-vllm failed and is switched off; vLLM goes on with its own length")
        runner.__dict__[_ADAPTER] = None
        return None


def _init(original: Any) -> Any:
    """__init__"""

    @functools.wraps(original)
    def hooked(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        original(self, vllm_config, *args, **kwargs)
        if vllm_config.speculative_config is not None and support.refusal(vllm_config) is None:
            from dsde.vllm.adapter import Adapter

            self.__dict__[_ADAPTER] = Adapter(self, vllm_config)

    return hooked


def _execute_model(original: Any) -> Any:
    """execute_model"""

    @functools.wraps(original)
    def hooked(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        _asks(self, lambda adapter: adapter.begin(scheduler_output))
        return original(self, scheduler_output, *args, **kwargs)

    return hooked


def _sample(original: Any) -> Any:
    """_sample"""

    @functools.wraps(original)
    def hooked(self: Any, logits: Any, spec_decode_metadata: Any) -> Any:
        # Before sampling, which may change the logits in place.
        _asks(self, lambda adapter: adapter.compare(logits, spec_decode_metadata))
        output = original(self, logits, spec_decode_metadata)
        _asks(self, lambda adapter: adapter.observe(output.sampled_token_ids))
        return output

    return hooked


def _propose(original: Any) -> Any:
    """propose_draft_token_ids"""

    @functools.wraps(original)
    def hooked(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        scheduled_len = scheduler_output.num_spec_tokens_to_schedule
        depth = _asks(self, lambda adapter: adapter.plan(scheduled_len))
        if depth is None:
            return original(self, scheduler_output, *args, **kwargs)
        scheduler_output.num_spec_tokens_to_schedule = depth
        keeping = _asks(self, lambda adapter: adapter.keeping_logits()) or nullcontext()
        try:
            with keeping:
                drafts = original(self, scheduler_output, *args, **kwargs)
        finally:
            scheduler_output.num_spec_tokens_to_schedule = scheduled_len
        _asks(self, lambda adapter: adapter.drafted(drafts))
        return drafts

    return hooked


def _take(original: Any) -> Any:
    """take_draft_token_ids"""

    @functools.wraps(original)
    def hooked(self: Any) -> Any:
        drafts = original(self)
        if drafts is not None:
            _asks(self, lambda adapter: adapter.cut(drafts.req_ids, drafts.draft_token_ids))
        return drafts

    return hooked
