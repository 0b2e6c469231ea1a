"""Which vLLM is served. What is not known is left as it is."""

from __future__ import annotations

import inspect
from typing import Any

VERSIONS = {
    "0.32.0": "run end to end with its CPU build; its CUDA build has the same methods and was not run",
    "0.33.0": "its methods are those of 0.32.0; not run",
}
"""Versions of vLLM whose model runner (V1) was read, and what was run."""

METHODS = ("ngram", "draft_model", "eagle", "eagle3")
"""Ways of drafting that can stop at any length. Run were the first two."""

HOOKED = {
    "__init__": ["self", "vllm_config", "device"],
    "execute_model": ["self", "scheduler_output", "intermediate_tensors"],
    "_sample": ["self", "logits", "spec_decode_metadata"],
    "propose_draft_token_ids": ["self", "scheduler_output", "sampled_token_ids", "sampling_metadata"],
    "take_draft_token_ids": ["self"],
}
"""Methods of the model runner that are wrapped, with the parameters that they must begin with."""


def unknown_version() -> str | None:
    """Why this vLLM is not known, if it is not."""
    import vllm

    version = vllm.__version__.split("+")[0]
    if version in VERSIONS:
        return None
    return f"version {vllm.__version__} is not known, expected one of: {', '.join(VERSIONS)}"


def unknown_methods(runner_class: Any) -> str | None:
    """Why the model runner is not the one that was read, if it is not; for versions that somebody has changed."""
    for name, expected in HOOKED.items():
        method = getattr(runner_class, name, None)
        got = None if method is None else list(inspect.signature(method).parameters)
        if got is None or got[: len(expected)] != expected:
            return f"{runner_class.__name__}.{name} has not the expected parameters {expected}, got {got}"
    return None


def refusal(config: Any) -> str | None:
    """Why a configuration with speculation is not served, if it is not."""
    speculative, parallel = config.speculative_config, config.parallel_config
    if config.use_v2_model_runner:
        return "Model Runner V2 is not supported; set VLLM_USE_V2_MODEL_RUNNER=0"
    if config.scheduler_config.async_scheduling:
        return "asynchronous scheduling fixes lengths before drafting; start with --no-async-scheduling"
    if parallel.world_size > 1 or parallel.data_parallel_size > 1:
        return (
            "lengths would have to be agreed upon between processes; expected one, got "
            f"{parallel.world_size} of model parallelism and {parallel.data_parallel_size} of data parallelism"
        )
    if speculative.method not in METHODS:
        return f"drafting by {speculative.method} is not supported, expected one of: {', '.join(METHODS)}"
    if speculative.parallel_drafting:
        return "parallel drafting drafts all tokens in one pass, whatever the length"
    return None
