"""Checkpoints: all that a run needs to go on as if it had not stopped, in one file replaced atomically."""

import os
from pathlib import Path
from typing import Any

import torch

from model import Llama, Shape, load_folder

FILE = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Writes beside the old checkpoint, then takes its place: a crash leaves one of the two, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (FILE + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / FILE)


def load(folder: Path) -> dict[str, Any]:
    """The state `save` wrote, on the CPU."""
    return torch.load(folder / FILE, map_location="cpu", weights_only=True)


def exists(folder: Path) -> bool:
    return (folder / FILE).exists()


def load_model(folder: Path, device: torch.device) -> Llama:
    """The model of a run folder or of an exported Hugging Face folder, ready for inference, f32."""
    if exists(folder):
        state = load(folder)
        model = Llama(Shape(**state["shape"]))
        model.load_state_dict(state["model"])
    else:
        model = load_folder(folder)
    return model.to(device).eval().requires_grad_(False)


def history(folder: Path) -> dict[str, Any] | None:
    """Steps, tokens and seconds a run folder was trained for; None for an exported folder."""
    return load(folder)["progress"] if exists(folder) else None
