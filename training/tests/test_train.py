"""Schedule, gradients, resuming, and the distillation loss."""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoint
import loop
import train
from data import Documents
from evaluate import Chain, agreement, chains, run_lengths, speculation
from losses import batch_loss, kld, overlap
from settings import Settings

SMOKE = Settings.read(Path(train.__file__).parent / "configs" / "smoke.toml")


def settings(**changes) -> Settings:
    """The smoke settings, smaller still."""
    shape = replace(SMOKE.target.shape, vocab_size=32, hidden_size=16, head_dim=8, ff_size=24)
    training = replace(SMOKE.target.training, context_len=24, rows_per_step=4, micro_rows=4, n_steps=12, warmup_steps=3)
    training = replace(training, checkpoint_every_steps=100, heldout_every_steps=100, **changes)
    recipe = train.Recipe(shape, training)
    return replace(SMOKE, vocab_size=32, target=recipe, draft=recipe)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty counting documents: few enough that twelve steps cross an epoch."""
    encoded = [((np.arange(20) + i) % 32).astype(np.uint16) for i in range(30)]
    some = Documents.collect(encoded, [0] * 15 + [4] * 15, [0] * 30)
    for part in ("train", "heldout", "samples"):
        some.save(tmp_path / f"{part}.npz")
    return tmp_path


def prepared(some: Settings, folder: Path, out: str, **changes) -> train.Run:
    args = argparse.Namespace(role="target", data=folder, out=folder / out, teacher=None, samples=None, init=None)
    vars(args).update(changes)
    args.out.mkdir(exist_ok=True)
    return train.prepared(args, some, torch.device("cpu"))


def test_the_learning_rate_warms_up_and_falls_to_its_end_share() -> None:
    training = replace(SMOKE.target.training, n_steps=104, warmup_steps=4, lr_max=1.0, lr_end_share=0.1)
    rates = [train.learning_rate(step, 104, training) for step in range(104)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # Step 53.5 would be the middle of 4..103: 0.1 + 0.9 / 2 = 0.55, between its neighbours.
    assert rates[54] < 0.55 < rates[53]
    assert math.isclose(rates[103], 0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_plan_keeps_to_the_recipe_and_never_ends_in_the_past() -> None:
    progress = loop.Progress(n_steps=100, step=20, seconds=40.0)
    # 10 minutes less 5 % less 40 s leave 530 s, at 2 s per step 265 steps.
    assert loop.planned_steps(progress, 10.0, 2.0, 1000) == 285
    assert loop.planned_steps(progress, 10.0, 0.1, 1000) == 1000
    assert loop.planned_steps(progress, 0.1, 2.0, 1000) == 21


def test_a_run_with_a_limit_plans_again_and_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SKIPPED_STEPS", 1)
    monkeypatch.setattr(loop, "MEASURED_STEPS", 2)
    plans = []

    def planned(progress: loop.Progress, minutes: float, seconds_per_step: float, n_steps_max: int) -> int:
        assert seconds_per_step > 0 and n_steps_max == 12
        plans.append(progress.step)
        return {3: 12, 5: 9, 7: 8}[progress.step]

    monkeypatch.setattr(loop, "planned_steps", planned)
    run = prepared(settings(), folder, "limited")
    assert loop.train(run, minutes=1.0, pause_minutes=None)
    assert (plans, run.progress.step) == ([3, 5, 7], 8)


def test_micro_batches_add_up_to_the_whole_step(folder: Path) -> None:
    runs = [prepared(settings(micro_rows=rows), folder, f"micro{rows}") for rows in (4, 1)]
    whole, parts = (train.train_step(run) for run in runs)
    assert math.isclose(whole.loss, parts.loss, rel_tol=1e-5)
    assert math.isclose(whole.gradient_norm, parts.gradient_norm, rel_tol=1e-4)


@pytest.mark.parametrize("stop", [1, 9])
def test_a_resumed_run_equals_an_uninterrupted_one(folder: Path, stop: int) -> None:
    some = settings()
    whole = prepared(some, folder, "whole")
    expected = [train.train_step(whole) for _ in range(12)]
    assert whole.progress.positions[0][0] >= 1, "the run must cross an epoch"
    broken = prepared(some, folder, "resumed")
    got = [train.train_step(broken) for _ in range(stop)]
    checkpoint.save(broken.folder, train.state_of(broken))
    # A crash two steps later left these lines behind.
    lines = [f'{{"step": {step}}}\n' for step in range(1, stop + 3)]
    (broken.folder / loop.LOG).write_text("".join(lines) + '{"st', encoding="utf-8")
    torch.manual_seed(999)
    resumed = prepared(some, folder, "resumed")
    assert resumed.progress.step == stop
    assert (broken.folder / loop.LOG).read_text(encoding="utf-8") == "".join(lines[:stop])
    got += [train.train_step(resumed) for _ in range(12 - stop)]
    assert got == expected
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_another_recipe_is_refused(folder: Path) -> None:
    run = prepared(settings(), folder, "run")
    checkpoint.save(run.folder, train.state_of(run))
    with pytest.raises(SystemExit, match="another recipe"):
        prepared(settings(lr_max=1.0), folder, "run")


def test_a_draft_equal_to_its_teacher_has_no_divergence(folder: Path) -> None:
    some = settings(teacher_share=1.0, samples_share=0.5)
    run = prepared(some, folder, "draft", samples=folder / "samples.npz")
    assert run.rows == [2, 2]
    batch = run.streams[0].next_rows(4)
    same = batch_loss(run.model, run.backbone, batch, teacher=run.model, teacher_share=1.0)
    assert abs(same.total.item()) < 1e-4
    assert float(same.text) > 0


@pytest.mark.parametrize(
    ("matches", "expected"),
    [("", []), ("0", [0]), ("1", [1]), ("1101", [2, 1]), ("110", [2]), ("0011", [0, 0, 2])],
)
def test_runs_end_at_what_was_not_foreseen_and_at_the_end(matches: str, expected: list[int]) -> None:
    assert run_lengths([letter == "1" for letter in matches]) == expected


def test_a_speculation_counts_chains_and_runs_of_all_answers() -> None:
    answers = [[True, True, False, True], [True] * 9 + [False]]
    # Chains of two: 110 and 1; 11(1), 11(1), 11(1) and 0. Kept 2 + 1 + 2 + 2 + 2 + 0 of 2 + 1 + 2 + 2 + 2 + 1.
    found = speculation(answers, chain_len=2)
    assert found.kept == [1, 1, 4]
    assert found.acceptance_rate == 9 / 10
    # 14 tokens in 6 verifications.
    assert math.isclose(found.emitted_per_step, 14 / 6)
    # Runs of 2, 1 and 9.
    assert (found.runs, found.run_mean) == ([0, 1, 1, 0, 0, 1, 0], 4.0)


def test_a_target_that_drafts_for_itself_agrees_at_both_temperatures(folder: Path) -> None:
    some = settings()
    run = prepared(some, folder, "self")
    found = agreement(run.model.eval(), run.model, [[1, 2, 3], [4, 5]], some, stops=set())
    assert (found.greedy.acceptance_rate, found.sampled.acceptance_rate) == (1.0, 1.0)
    assert found.divergence.n_positions == 2 * some.evaluation.new_tokens
    assert math.isclose(found.divergence.overlap_mean, 1.0, abs_tol=1e-5)
    assert max(map(abs, found.divergence.kld_quantiles)) < 1e-5


def test_sampled_drafts_are_kept_as_often_as_the_overlap_says(folder: Path) -> None:
    some = replace(settings(), evaluation=replace(SMOKE.evaluation, new_tokens=12, chain_len=1))
    target, draft = (prepared(some, folder, name).model.eval() for name in ("one", "two"))
    for model, seed in ((target, 1), (draft, 2)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    found = agreement(target, draft, [[i % 32, (7 * i) % 32] for i in range(400)], some, stops=set())
    kept = found.sampled.kept[1] / sum(found.sampled.kept)
    # A share of about 2,400 draws lies within four standard deviations of its mean.
    assert 0.1 < found.divergence.overlap_mean < 0.9
    assert abs(kept - found.divergence.overlap_mean) < 4 * 0.5 / math.sqrt(2400)


def test_divergence_and_overlap_of_two_coins() -> None:
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    # 0.5 ln 2 + 0.5 ln (2 / 3) = 0.143841; min(0.5, 0.25) + min(0.5, 0.75) = 0.75
    assert math.isclose(float(kld(p.log(), q.log())), 0.143841, abs_tol=1e-6)
    assert math.isclose(float(overlap(p.log(), q.log())), 0.75, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        ("", []),
        ("0", [Chain(1, 0, 1)]),
        # The only token was foreseen: kept, and nothing is left for the target to add.
        ("1", [Chain(1, 1, 1)]),
        # Two kept and one recovered; one kept at the end.
        ("1101", [Chain(2, 2, 3), Chain(1, 1, 1)]),
        # A whole chain of two and a bonus token, which need not be foreseen.
        ("110", [Chain(2, 2, 3)]),
        ("0011", [Chain(2, 0, 1), Chain(2, 0, 1), Chain(2, 2, 2)]),
    ],
)
def test_chains_follow_the_rule_of_speculation(matches: str, expected: list[Chain]) -> None:
    assert chains([letter == "1" for letter in matches], chain_len=2) == expected


@pytest.mark.parametrize(
    ("name", "target", "draft"),
    [("cpu", 5_770_496, 918_144), ("gpu", 26_223_104, 2_507_712), ("smoke-gpu", 115_008, 39_072)],
)
def test_recipes_have_the_sizes_the_readme_names(name: str, target: int, draft: int) -> None:
    some = Settings.read(Path(train.__file__).parent / "configs" / f"{name}.toml")
    with torch.device("meta"):
        sizes = [train.Llama(recipe.shape).n_parameters for recipe in (some.target, some.draft)]
    assert sizes == [target, draft]


def test_misspelt_settings_are_refused(tmp_path: Path) -> None:
    text = (Path(train.__file__).parent / "configs" / "smoke.toml").read_text(encoding="utf-8")
    (tmp_path / "wrong.toml").write_text(text.replace("lr_max", "lr_maximum", 1), encoding="utf-8")
    with pytest.raises(ValueError, match="lr_maximum"):
        Settings.read(tmp_path / "wrong.toml")
