"""Steps of a host as the policy sees them, without vLLM."""

import math

import numpy as np
import pytest

import dsde
from dsde.vllm import settings
from dsde.vllm.speculation import Memory, Pass, Row, Speculation

MEMORY = Memory(blocks_free=90, blocks_total=100, block_len=16, prefill_rows=0)


def row(request: str, emitted: int, verified: int = 0, **more: object) -> Row:
    columns = {
        "context_len": 40,
        "limit": 8,
        "remaining": 9,
        "total": emitted,
        "temperature": 0.0,
        "tpot_max": math.nan,
    }
    return Row(request=request, emitted=emitted, verified=verified, **(columns | more))


def step(speculation: Speculation, rows: list[Row], offers: list[int] | None = None, now: float = 1.0, **more: object) -> list[int]:
    """Observes a target pass, plans, drafts what was planned, and returns what each request has to verify."""
    observed = more.pop("differences", None)
    speculation.observe(rows, Pass(len(rows), 0), observed, now - 0.01, now)
    depth = speculation.plan(rows, offers, MEMORY, now)
    drafted = [depth if offers is None else offers[[r.request for r in rows].index(name)] for name in speculation.planned_requests()]
    speculation.drafted(drafted, more.pop("shapes", None), 0.002)
    return [speculation.drafted_len(r.request) for r in rows]


def differences(klds: list[float]) -> dsde.Divergence:
    column = np.asarray(klds, np.float32)
    return dsde.Divergence(column, np.minimum(column, 1), column, column)


def test_requests_that_do_not_emit_are_not_planned() -> None:
    speculation = Speculation(dsde.Policy("fixed:k=3"), has_model=True)
    assert step(speculation, [row("a", 1), row("prompt", 0), row("ended", 1, remaining=0)]) == [3, 0, 0]
    assert speculation.planned_requests() == ["a"]


def test_limits_shorten_a_proposal_and_not_its_neighbours() -> None:
    speculation = Speculation(dsde.Policy("fixed:k=5"), has_model=True)
    assert step(speculation, [row("a", 1, limit=2), row("b", 1)]) == [2, 5]
    assert speculation.depth == 5


def test_offers_of_a_drafter_without_a_model_bound_the_plan() -> None:
    speculation = Speculation(dsde.Policy("fixed:k=5"), has_model=False)
    assert step(speculation, [row("a", 1), row("b", 1), row("c", 1)], offers=[0, 3, 7]) == [0, 3, 5]


def test_divergence_makes_lengths_differ() -> None:
    speculation = Speculation(dsde.Policy("dsde"), has_model=True)
    rng = np.random.default_rng(3)
    lens, rows = [0, 0], [row("a", 1), row("b", 1)]
    for i in range(30):
        klds = [*rng.uniform(0, 0.02, lens[0]), *rng.uniform(0.2, 2.0, lens[1])]
        lens = step(speculation, rows, now=1.0 + 0.02 * i, differences=differences(klds))
        rows = [row("a", 1 + lens[0], lens[0]), row("b", 1, lens[1])]
    assert lens[0] > lens[1] == 2


def test_verified_padding_of_the_host_does_not_count() -> None:
    speculation = Speculation(dsde.Policy("dsde"), has_model=True)
    step(speculation, [row("a", 1)])
    # The host verifies eight although five were handed over, and nothing of what it kept is more than five.
    step(speculation, [row("a", 9, verified=8)], differences=differences([0.1] * 5))


def test_a_step_without_a_plan_teaches_nothing_and_hands_over_nothing() -> None:
    speculation = Speculation(dsde.Policy("dsde"), has_model=True)
    step(speculation, [row("a", 1)])
    rows = [row("a", 6, verified=5)]
    speculation.observe(rows, Pass(6, 0), differences([0.1] * 5), 1.0, 1.1)
    assert speculation.drafted_len("a") == 0
    speculation.observe([row("a", 1)], Pass(1, 0), None, 1.2, 1.3)
    assert step(speculation, [row("a", 1)]) == [8]


def test_forgotten_requests_begin_again() -> None:
    speculation = Speculation(dsde.Policy("dsde"), has_model=True)
    step(speculation, [row("a", 1)])
    assert step(speculation, [row("a", 6, verified=5)], differences=differences([0.1] * 5)) == [8]
    speculation.forget(["a", "unknown"])
    assert step(speculation, [row("a", 1)]) == [5]


def test_an_unsure_draft_ends_the_proposal_behind_it() -> None:
    speculation = Speculation(dsde.Policy("confidence:p_min=0.5,n_max=4"), has_model=True)
    shapes = (np.full((2, 4), 0.3), np.array([[0.9, 0.9, 0.4, 0.9], [0.9, 0.9, 0.9, 0.9]]))
    assert step(speculation, [row("a", 1), row("b", 1)], shapes=shapes) == [3, 4]


def test_trimming_shares_what_was_drafted() -> None:
    speculation = Speculation(dsde.Policy("tetris:base_k=2,extra=2"), has_model=True)
    shapes = (np.full((2, 4), 0.3), np.array([[0.9] * 4, [0.1] * 4]))
    assert step(speculation, [row("a", 1), row("b", 1)], shapes=shapes) == [4, 0]


def test_idle_time_is_no_part_of_a_step() -> None:
    for restarts, expected in [(True, 0.012), (False, 100.0)]:
        policy = Recording()
        speculation = Speculation(policy, has_model=True)
        step(speculation, [row("a", 1)], now=1.0)
        step(speculation, [row("b" if restarts else "a", 1)], now=101.0)
        assert policy.feedback.step_time == pytest.approx(expected)


class Recording:
    """A policy that plans nothing and keeps what it is told."""

    def plan(self, batch: dsde.Batch) -> dsde.Plan:
        self.batch = batch
        return dsde.Policy("fixed:k=2").plan(batch)

    def trim(self, batch: dsde.Batch, drafted: list[int], *shapes: object) -> np.ndarray:
        return np.asarray(drafted)

    def keep_drafting(self, *position: object) -> bool:
        return True

    def observe(self, feedback: dsde.Feedback) -> None:
        self.feedback = feedback


def test_views_and_feedback_carry_what_the_host_knows() -> None:
    policy = Recording()
    speculation = Speculation(policy, has_model=True)
    rows = [row("a", 1, temperature=0.7, tpot_max=0.05, context_len=99, total=4), row("b", 0)]
    speculation.observe(rows, Pass(40, 39), None, 4.9, 5.0)
    assert speculation.plan(rows, None, MEMORY, 5.0) == 2
    batch = policy.batch
    assert (batch.seqs, batch.limits, batch.remaining, batch.context_lens) == ([0], [8], [9], [99])
    assert (batch.draft_lags, batch.temperatures, batch.emitted, batch.tpots_max) == (None, [0.7], [4], [0.05])
    assert (batch.blocks_free, batch.blocks_total, batch.block_len, batch.now) == (90, 100, 16, 5.0)
    speculation.drafted([2], None, 0.002)
    speculation.observe([row("a", 2, verified=2)], Pass(9, 6), None, 5.1, 5.25)
    feedback = policy.feedback
    assert (feedback.planned, feedback.drafted, feedback.verified, feedback.accepted) == ([2], [2], [2], [1])
    assert len(feedback.context_lens) == 1 and feedback.is_foreseen == [False]
    # What the draft reads without drafting is no part of it.
    assert (feedback.draft_rounds, feedback.draft_rows, feedback.target_rows, feedback.prefill_rows) == (2, 2, 9, 6)
    assert (feedback.draft_time, feedback.step_time) == (0.002, pytest.approx(0.25))
    assert feedback.verify_time == pytest.approx(0.15)


def test_a_step_in_which_nobody_drafts_has_no_drafting_though_the_draft_reads() -> None:
    policy = Recording()
    policy.plan = dsde.Policy("off").plan
    speculation = Speculation(policy, has_model=True)
    assert step(speculation, [row("a", 1)], now=1.0) == [0]
    step(speculation, [row("a", 1)], now=1.5)
    assert (policy.feedback.draft_rounds, policy.feedback.draft_rows) == (0, 0)
    assert policy.feedback.step_time == pytest.approx(0.5)


def test_the_environment_decides_before_the_configuration() -> None:
    assert settings.specification({}, {}) == "dsde"
    assert settings.specification({}, {"dsde_policy": "auto"}) == "auto"
    assert settings.specification({"DSDE_VLLM_POLICY": "fixed:k=2"}, {"dsde_policy": "auto"}) == "fixed:k=2"
    assert settings.is_left_alone({"DSDE_VLLM_POLICY": "vllm"})
    assert not settings.is_left_alone({})
    with pytest.raises(ValueError, match="expected a policy such as 'dsde' or 'fixed:k=4', got 3"):
        settings.specification({}, {"dsde_policy": 3})


def test_policies_that_draft_trees_are_refused_unless_they_draft_chains() -> None:
    for text in ["ddd", "adaserve"]:
        with pytest.raises(ValueError, match=f"policy {text} drafts token trees, which vLLM does not verify"):
            settings.policy(text)
    assert settings.policy("ddd:width=1").name == "ddd:width=1"
    assert settings.policy("adaserve:w_max=1").name == "adaserve:w_max=1"
    for name, _, _ in dsde.policies():
        if name not in ("ddd", "adaserve", "fixed", "batch_schedule"):
            assert settings.policy(name).name == name
