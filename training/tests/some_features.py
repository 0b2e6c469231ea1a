"""A target and its features of a few answered prompts, for the tests of what learns from them."""

from pathlib import Path

import numpy as np
import torch

from data import Documents
from eagle3_features import write_streams
from model import Llama, Shape


def seeded_target(shape: Shape) -> Llama:
    torch.manual_seed(3)
    model = Llama(shape).eval().requires_grad_(False)
    # Larger embeddings, so that the distributions are not flat.
    model.model.embed_tokens.weight.mul_(30.0)
    return model


def write_features(target: Llama, folder: Path) -> None:
    """Seven answered prompts of different lengths, as stage 2 writes them: `part-00` in `folder`."""
    draw = np.random.default_rng(5)
    lengths, prompt_lens = [9, 14, 7, 20, 11, 6, 16], [3, 5, 4, 2, 9, 1, 8]
    encoded = [draw.integers(0, target.shape.vocab_size, n).astype(np.uint16) for n in lengths]
    documents = Documents.collect(encoded, prompt_lens, [0, 1, 2, 3, 0, 1, 2])
    folder.mkdir()
    documents.save(folder / "part-00.npz")
    write_streams(target, documents, folder / "part-00.hidden", rows=3)
