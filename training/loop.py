"""The loop of a training run: steps, a schedule that fits the time, held-out figures, checkpoints and a log."""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

import checkpoint

# Steps left out of, and then used for, each measuring of the speed that --minutes plans with (compilation comes first).
SKIPPED_STEPS, MEASURED_STEPS = 5, 15

# Share of --minutes kept for checkpoints and held-out losses.
RESERVE_SHARE = 0.05

LOG = "log.jsonl"

# Exit status of a run that paused before its last step: start the same command again.
PAUSED = 3


@dataclass
class Progress:
    """Where a run is; with the weights and the optimiser this is the whole state."""

    n_steps: int
    step: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    # (epoch, row) of each stream.
    positions: list[tuple[int, int]] = field(default_factory=list)


class Schedule(Protocol):
    """What the loop needs of a run's settings."""

    n_steps: int
    checkpoint_every_steps: int
    heldout_every_steps: int


class Run(Protocol):
    """What the loop needs of a run."""

    progress: Progress
    folder: Path

    @property
    def training(self) -> Schedule: ...

    def take_step(self) -> Any:
        """One update, counted in `progress`; returns a dataclass for the log."""

    def shown(self, report: Any) -> str:
        """What the progress line says of a step."""

    def heldout(self) -> dict[str, Any]:
        """Figures on text that is never learned from."""

    def save(self) -> None:
        """Writes a checkpoint."""


def planned_steps(progress: Progress, minutes: float, seconds_per_step: float, n_steps_max: int) -> int:
    """The steps that fit into `minutes` of the whole run, at most those of the recipe."""
    left = minutes * 60.0 * (1.0 - RESERVE_SHARE) - progress.seconds
    return max(progress.step + 1, min(n_steps_max, progress.step + int(left / seconds_per_step)))


def forget_after(log: Path, step: int) -> None:
    """Drops log lines of steps that a crash lost and that will be taken again."""
    if log.exists():
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        log.write_text("".join(kept), encoding="utf-8")


def continued(run: Run, identity: str, settings: str) -> dict[str, Any]:
    """The checkpoint of the run's folder, from which the run goes on; refuses one of another `identity`.

    `settings` is what the message calls those of the run.
    """
    state = checkpoint.load(run.folder)
    if state["identity"] != identity:
        raise SystemExit(f"{run.folder} was made with {settings} or other text: use those, or another folder")
    run.progress = Progress(**state["progress"])
    forget_after(run.folder / LOG, run.progress.step)
    return state


def train(run: Run, minutes: float | None, pause_minutes: float | None) -> bool:
    """Steps until the last one (True) or until the pause (False), with checkpoints and a log on the way."""
    began, before = time.monotonic(), run.progress.seconds
    training, durations = run.training, []
    log = (run.folder / LOG).open("a", encoding="utf-8")
    while run.progress.step < run.progress.n_steps:
        started, n_before = time.monotonic(), run.progress.n_tokens
        report = run.take_step()
        progress = run.progress
        progress.seconds = before + time.monotonic() - began
        durations.append(time.monotonic() - started)
        if minutes is not None and len(durations) == SKIPPED_STEPS + MEASURED_STEPS:
            # Planned again and again: on a shared machine the speed changes. The median does not see a pause.
            pace = statistics.median(durations[SKIPPED_STEPS:])
            del durations[SKIPPED_STEPS:]
            progress.n_steps = planned_steps(progress, minutes, pace, training.n_steps)
            print(f"{pace:.3f} s per step: {progress.n_steps} steps fit into {minutes:g} minutes", flush=True)
        is_last = progress.step >= progress.n_steps
        entry = {"step": progress.step, "seconds": round(progress.seconds, 2)} | asdict(report)
        if is_last or progress.step % training.heldout_every_steps == 0:
            entry["heldout"] = run.heldout()
            print(f"held out at {progress.step}: {json.dumps(entry['heldout'])}", flush=True)
        print(json.dumps(entry), file=log, flush=True)
        speed = (progress.n_tokens - n_before) / (time.monotonic() - started)
        left = (progress.n_steps - progress.step) * progress.seconds / progress.step / 60.0
        print(
            f"step {progress.step}/{progress.n_steps} {run.shown(report)} {speed:.0f} tokens/s left {left:.1f} min",
            flush=True,
        )
        is_pause = pause_minutes is not None and time.monotonic() - began >= pause_minutes * 60.0
        if is_last or is_pause or progress.step % training.checkpoint_every_steps == 0:
            run.save()
        if is_pause and not is_last:
            print(f"paused at step {progress.step} of {progress.n_steps}; the same command goes on", flush=True)
            return False
    return True


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser of what every training command takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="run folder; a checkpoint in it is continued")
    parser.add_argument("--minutes", type=float, help="shorten the schedule so that the whole run fits")
    parser.add_argument("--pause-minutes", type=float, help="stop this call after so long, with a checkpoint; exit 3")
    parser.add_argument("--threads", type=int, help="CPU threads; default: as many as cores")
    return parser


def begun(args: argparse.Namespace) -> None:
    """Threads and the run folder, before anything is computed."""
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)


def finish(run: Run, args: argparse.Namespace) -> None:
    """Trains to the end, or ends the program with PAUSED."""
    if not train(run, args.minutes, args.pause_minutes):
        raise SystemExit(PAUSED)
