"""Mends sampled speculation in vLLM's CPU build without Triton (vllm-project/vllm issue 55005), where it is broken.

There the temperatures of requests are spread over their drafted positions by a kernel that writes into a converted copy, so that the
positions read memory that nobody has written.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("vllm.dsde")


def mend() -> None:
    """Replaces the faulty function of the rejection sampler, on a CPU and only if it is seen to fail."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.sample import rejection_sampler

    if is_faulty(rejection_sampler.expand_batch_to_tokens):
        rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
        logger.info("dsde-vllm mends sampled speculation on the CPU (vLLM issue 55005)")


def is_faulty(expand: Any) -> bool:
    """Whether a function does not repeat every value as often as it should; one that cannot be called is."""
    import torch

    values, ends = torch.tensor([0.5, 0.0, 2.0]), torch.tensor([2, 3, 6], dtype=torch.int32)
    try:
        got = expand(values, ends, 6, replace_from=0, replace_to=1)
    except Exception:
        return True
    return not torch.equal(got, torch.tensor([0.5, 0.5, 1.0, 2.0, 2.0, 2.0]))


def expand_batch_to_tokens(x: Any, cu_num_tokens: Any, num_tokens: int, replace_from: int = 0, replace_to: int = 0) -> Any:
    """Repeats the value of every request for each of its drafted positions, one value replaced by another.

    * `x`: `[n_requests]`; `cu_num_tokens`: `[n_requests]`, drafted positions up to and including each request.
    * Returns `[num_tokens]`.
    """
    import torch

    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    expanded = x.repeat_interleave(counts.to(torch.int64), output_size=num_tokens)
    return torch.where(expanded == replace_from, torch.full_like(expanded, replace_to), expanded)
