"""The entry point."""

from __future__ import annotations

import logging
import os
from typing import Any

from dsde.vllm import settings, support

logger = logging.getLogger("vllm.dsde")

_WARNED = "DSDE_VLLM_WARNED"
"""Processes inherit it from each other, so that of all of them one warns."""


def register() -> None:
    """Prepares vLLM's workers for a policy; vLLM calls it once per process.

    Raises `ValueError` if `DSDE_VLLM_POLICY` names no policy that can be used.
    """
    if settings.is_left_alone(os.environ):
        return
    specification = settings.of_environment(os.environ)
    if specification is not None:
        settings.policy(specification)
    reason = support.unknown_version()
    if reason is not None:
        warn_once(reason)
        return
    from vllm.v1.worker.worker_base import WorkerBase

    _prepare(WorkerBase)


def warn_once(reason: str) -> None:
    """Says, once for all processes, that vLLM is left as it is."""
    if _WARNED not in os.environ:
        os.environ[_WARNED] = "1"
        logger.warning("dsde-vllm leaves vLLM as it is: %s", reason)


def _prepare(worker_class: Any) -> None:
    """Makes a worker install the hooks when it starts: only there the model runner is loaded anyway."""
    original = worker_class.__init__
    if getattr(original, "is_of_dsde", False):
        return

    def __init__(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        original(self, vllm_config, *args, **kwargs)
        if vllm_config.speculative_config is None:
            return
        reason = support.refusal(vllm_config)
        if reason is not None:
            warn_once(reason)
            return
        from dsde.vllm import hooks

        hooks.install()

    __init__.is_of_dsde = True  # type: ignore[attr-defined]
    worker_class.__init__ = __init__
