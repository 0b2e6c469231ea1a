"""`dsde.Policy` without any host."""

import numpy as np
import pytest

import dsde

ARRAYS = [np.uint8, np.int32, np.int64, np.uint64]


def plan(policy: dsde.Policy, **columns: object) -> list[int]:
    return policy.plan(dsde.Batch(**columns)).lens.tolist()


def test_specifications_are_those_of_the_command_line() -> None:
    for text, name in [
        ("dsde", "dsde"),
        ("dsde:variant=paper,sl_min=2", "dsde"),
        ("dsde:variant=released,cap=mean", "dsde:variant=released,cap=mean"),
        ("fixed:k=4", "fixed:k=4"),
        ("auto", "auto"),
        ("off", "off"),
    ]:
        assert dsde.Policy(text).name == name
    assert dsde.Policy().name == "dsde"
    assert repr(dsde.Policy("fixed:k=4")) == "Policy('fixed:k=4')"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dsdee", "unknown policy 'dsdee', expected one of: auto, off, fixed, dsde"),
        ("fixed", "policy fixed needs k=<1..=64>"),
        ("fixed:k=0", "parameter k of policy fixed must be 1..=64, got '0'"),
        ("dsde:sl_min=9,sl_max=8", "policy dsde needs sl_min <= sl_max, got 9 > 8"),
        ("", "unknown policy ''"),
    ],
)
def test_wrong_specifications_say_what_is_possible(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        dsde.Policy(text)


def test_every_policy_runs_a_batch() -> None:
    assert len(dsde.policies()) >= 17
    for name, summary, source in dsde.policies():
        assert summary and source
        required = {"fixed": ":k=3", "batch_schedule": ":table=1-2:3;3-:1"}
        policy = dsde.Policy(name + required.get(name, ""))
        for step in range(40):
            batch = dsde.Batch(seqs=[7, 9], limits=[6, 6], temperatures=[0.0, 0.8], context_lens=[40, 80], now=step * 0.01)
            lens = policy.plan(batch).lens
            assert (lens <= 6).all()
            shapes = ([0.5] * int(lens.sum()), [0.8] * int(lens.sum()))
            verified = policy.trim(batch, lens, *shapes)
            assert (verified <= lens).all()
            klds = [0.05] * int(verified.sum())
            policy.observe(
                dsde.Feedback(
                    seqs=[7, 9],
                    planned=lens,
                    drafted=lens,
                    verified=verified,
                    accepted=verified // 2,
                    temperatures=[0.0, 0.8],
                    klds=klds,
                    rejections=klds,
                    draft_time=0.001 * float(lens.max()),
                    verify_time=0.01,
                )
            )
        policy.forget(7)
        policy.forget(7)


def test_lengths_are_clipped_to_limits() -> None:
    assert plan(dsde.Policy("fixed:k=5"), seqs=[1, 2, 3], limits=[9, 5, 2]) == [5, 5, 2]
    assert plan(dsde.Policy("fixed:k=5"), seqs=[1]) == [0]
    assert plan(dsde.Policy("fixed:k=5"), seqs=[]) == []


def test_a_plan_says_why() -> None:
    plan = dsde.Policy("dsde").plan(dsde.Batch(seqs=[1], limits=[9]))
    assert (plan.lens.tolist(), plan.widths.tolist()) == ([5], [1])
    assert (plan.is_settled.tolist(), plan.reasons) == ([False], ["calibrating"])
    assert dsde.Policy("ddd").plan(dsde.Batch(seqs=[1], limits=[64])).widths.tolist() == [4]


@pytest.mark.parametrize("dtype", ARRAYS)
def test_columns_may_be_of_any_numeric_type(dtype: type) -> None:
    columns = {"seqs": np.array([3, 4], dtype), "limits": np.array([2, 9], dtype)}
    assert plan(dsde.Policy("fixed:k=5"), **columns) == [2, 5]
    assert plan(dsde.Policy("fixed:k=5"), seqs=np.array([3, 4], dtype), limits=[2, 9]) == [2, 5]


def test_columns_need_not_be_contiguous() -> None:
    limits = np.array([2, 0, 9, 0])[::2]
    assert plan(dsde.Policy("fixed:k=5"), seqs=[3, 4], limits=limits) == [2, 5]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"seqs": [1, 2], "limits": [1]}, ValueError, "limits: expected 2 entries, got 1"),
        ({"seqs": [1, 1]}, ValueError, "seqs: expected different numbers, got 1 twice"),
        ({"seqs": [-1]}, ValueError, "seqs: expected 0..=9223372036854775807, got -1"),
        ({"seqs": [1], "limits": [-1]}, ValueError, "limits: expected 0..=4294967295, got -1"),
        ({"seqs": [1], "limits": np.array([2**40])}, ValueError, "limits: expected 0..=4294967295"),
        ({"seqs": np.zeros((2, 2), int)}, ValueError, "seqs: expected one dimension, got 2"),
        ({"seqs": [1.5]}, TypeError, "seqs: expected an array or list of whole numbers, got list"),
        ({"seqs": np.array([1.5])}, TypeError, "whole numbers, got ndarray of float64"),
        ({"seqs": "abc"}, TypeError, "seqs: expected an array or list of numbers, got str"),
        ({"seqs": [1], "remaining": [0]}, ValueError, "remaining: expected at least 1, got 0"),
        ({"seqs": [1], "draft_lags": [0]}, ValueError, "draft_lags: expected at least 1, got 0"),
        ({"seqs": [1], "temperatures": [-0.5]}, ValueError, "temperatures: expected a finite number >= 0, got -0.5"),
        ({"seqs": [1], "temperatures": [float("nan")]}, ValueError, "temperatures: expected a finite number"),
        ({"seqs": [1], "decode_times": [1e12]}, ValueError, "decode_times: expected seconds in 0..=1e9"),
        ({"seqs": [1], "priorities": [1 << 33]}, ValueError, "priorities: expected -2147483648..=2147483647"),
        ({"seqs": [1], "foreseen_lens": [2], "foreseen_top_probs": [0.5]}, ValueError, "foreseen_top_probs: expected 2 entries, got 1"),
        ({"seqs": [1], "foreseen_lens": [1], "foreseen_top_probs": [1.5]}, ValueError, "a number in 0..=1, got 1.5"),
        ({"seqs": [1], "foreseen_lens": [1 << 31]}, ValueError, "at most 16777216"),
        ({"seqs": [1], "can_choose": []}, ValueError, "can_choose: expected 1 entries, got 0"),
        ({"seqs": [1], "now": -1.0}, ValueError, "now: expected seconds in 0..=1e9, got -1"),
    ],
)
def test_wrong_batches_are_refused(columns: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(").replace("*", r"\*")):
        dsde.Policy("dsde").plan(dsde.Batch(**columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"verified": [2], "accepted": [3]}, "accepted: expected at most verified, which is 2, got 3"),
        ({"verified": [2], "drafted": [1]}, "verified: expected at most drafted, which is 1, got 2"),
        ({"verified": [2], "planned": [1]}, "drafted: expected at most planned, which is 1, got 2"),
        ({"verified": [2], "klds": [0.1]}, "klds: expected 2 entries, got 1"),
        ({"verified": [1], "klds": [float("inf")]}, "klds: expected a finite number >= 0, got inf"),
        ({"verified": [1], "klds": [-0.1]}, "klds: expected a finite number >= 0, got -0.1"),
        ({"verified": [1], "klds": [0.1], "rejections": [1.1]}, "rejections: expected a number in 0..=1"),
        ({"step_time": float("nan")}, "step_time: expected seconds in 0..=1e9, got NaN"),
    ],
)
def test_wrong_feedback_is_refused(columns: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dsde.Policy("dsde").observe(dsde.Feedback(seqs=[1], **columns))


def test_unknown_rejections_are_allowed() -> None:
    dsde.Policy("auto").observe(dsde.Feedback(seqs=[1], verified=[1], klds=[0.1], rejections=[float("nan")]))


def test_divergence_shortens_a_settled_sequence() -> None:
    policy = dsde.Policy("dsde")
    batch = dsde.Batch(seqs=[1, 2], limits=[20, 20])
    rng = np.random.default_rng(1)
    for _ in range(20):
        lens = policy.plan(batch).lens.astype(int)
        klds = np.concatenate([rng.uniform(0, 0.02, lens[0]), rng.uniform(0.1, 1.5, lens[1])])
        policy.observe(dsde.Feedback(seqs=[1, 2], verified=lens, accepted=[lens[0], 1], klds=klds))
    first, second = policy.plan(batch).lens
    assert first > second
    assert policy.explain(1)["scale_factor"] < policy.explain(2)["scale_factor"]


def test_forgetting_starts_over() -> None:
    policy = dsde.Policy("dsde")
    batch = dsde.Batch(seqs=[1], limits=[20])
    policy.plan(batch)
    policy.observe(dsde.Feedback(seqs=[1], verified=[5], accepted=[5], klds=[0.1] * 5))
    assert policy.plan(batch).lens.tolist() == [10]
    policy.forget(1)
    assert policy.plan(batch).lens.tolist() == [5]


def test_confidence_stops_while_drafting() -> None:
    policy = dsde.Policy("confidence:p_min=0.6")
    assert policy.reads_draft_shape and not policy.reads_divergence
    policy.plan(dsde.Batch(seqs=[1], limits=[8]))
    assert policy.keep_drafting(1, 0, 0.1, 0.9, np.log(0.9))
    assert not policy.keep_drafting(1, 1, 1.0, 0.5, np.log(0.45))
    with pytest.raises(ValueError, match="position: expected an entropy >= 0"):
        policy.keep_drafting(1, 0, 0.1, 1.5, 0.0)
    with pytest.raises(OverflowError):
        policy.keep_drafting(-1, 0, 0.1, 0.5, 0.0)


def test_tetris_trims_across_the_batch() -> None:
    policy = dsde.Policy("tetris:base_k=2,extra=2")
    batch = dsde.Batch(seqs=[1, 2], limits=[4, 4])
    drafted = policy.plan(batch).lens
    assert drafted.tolist() == [4, 4]
    # A budget of four positions; those of the first sequence are surer.
    assert policy.trim(batch, drafted, top_probs=[0.9] * 4 + [0.1] * 4).tolist() == [4, 0]
    with pytest.raises(ValueError, match="top_probs: expected 8 entries, got 3"):
        policy.trim(batch, drafted, top_probs=[0.9] * 3)


def test_plans_are_repeatable() -> None:
    def run() -> list[list[int]]:
        policy, found = dsde.Policy("auto"), []
        for step in range(60):
            lens = policy.plan(dsde.Batch(seqs=[1, 2], limits=[8, 8], now=0.01 * step)).lens
            found.append(lens.tolist())
            policy.observe(dsde.Feedback(seqs=[1, 2], verified=lens, accepted=lens // 2, draft_time=0.002, verify_time=0.008))
        return found

    assert run() == run()
