"""How a policy is chosen: `DSDE_VLLM_POLICY`, else `dsde_policy` of vLLM's `--additional-config`, else `dsde`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsde import Policy

ENVIRONMENT = "DSDE_VLLM_POLICY"
CONFIG_KEY = "dsde_policy"
DEFAULT = "dsde"
LEFT_ALONE = "vllm"
"""Instead of a policy: vLLM's own lengths."""
TRACE = "DSDE_VLLM_TRACE"
"""Names a file to which every step appends a line of JSON."""

_TREES = {"ddd": "width", "adaserve": "w_max"}
"""Policies that draft token trees, which vLLM does not, and the parameter that makes them draft chains."""


def of_environment(environment: Mapping[str, str]) -> str | None:
    """The specification of the environment, if there is one."""
    return environment.get(ENVIRONMENT) or None


def is_left_alone(environment: Mapping[str, str]) -> bool:
    """Whether the environment asks for vLLM's own lengths."""
    return of_environment(environment) == LEFT_ALONE


def specification(environment: Mapping[str, str], additional_config: Any) -> str:
    """The specification that decides.

    Raises `ValueError` if the configuration's is no text.
    """
    configured = additional_config.get(CONFIG_KEY) if isinstance(additional_config, dict) else None
    chosen = of_environment(environment) or configured or DEFAULT
    if not isinstance(chosen, str):
        raise ValueError(f"{CONFIG_KEY} of additional_config: expected a policy such as 'dsde' or 'fixed:k=4', got {chosen!r}")
    return chosen


def policy(specification: str) -> Policy:
    """The policy, refused if it drafts token trees.

    Raises `ValueError` that says what is possible.
    """
    policy = Policy(specification)
    name, _, parameters = policy.name.partition(":")
    chain = f"{_TREES.get(name)}=1"
    if name in _TREES and chain not in parameters.split(","):
        raise ValueError(f"policy {name} drafts token trees, which vLLM does not verify; expected {name}:{chain}, got {policy.name}")
    return policy
