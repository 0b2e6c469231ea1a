"""Which policies there are."""

from typing import NamedTuple

from dsde import _dsde


class PolicyInfo(NamedTuple):
    """A policy before it is built; `dsde policies` on the command line lists its parameters, too."""

    name: str
    """As it is typed."""
    summary: str
    """One line."""
    source: str
    """Where it was published."""


def policies() -> list[PolicyInfo]:
    """Every policy, in the order of the command line's help."""
    return [PolicyInfo(*entry) for entry in _dsde.policies()]
