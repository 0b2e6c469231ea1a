"""How far to speculate: the policies of DSDE for any engine.

A policy chooses, for every running sequence and every step, how many tokens the draft guesses before the target checks them. It
sees numbers only, never a token, so a length that it plans before drafting cannot change what is emitted.

A step of an engine asks it in this order::

    policy = dsde.Policy("dsde")

    plan = policy.plan(batch)                        # before drafting: one length per sequence
    while drafting:                                  # optional: after each drafted token
        policy.keep_drafting(seq, position, ...)
    lens = policy.trim(batch, drafted, ...)          # optional: before verification
    policy.observe(feedback)                         # after it
    policy.forget(seq)                               # when a sequence ends

`Batch` and `Feedback` explain every number. `divergence` and `draft_shape` compute, from logits, what policies read.
Policies are named as on the command line of `dsde` (`"dsde:variant=released"`, `"fixed:k=4"`, `"auto"`); `policies` lists them.
"""

from dsde._dsde import Plan, Policy
from dsde.logits import Divergence, divergence, draft_shape
from dsde.registry import PolicyInfo, policies
from dsde.views import Batch, Feedback

__all__ = [
    "Batch",
    "Divergence",
    "Feedback",
    "Plan",
    "Policy",
    "PolicyInfo",
    "divergence",
    "draft_shape",
    "policies",
]
