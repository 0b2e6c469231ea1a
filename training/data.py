"""Encoded documents, their packing into rows, and an endless stream of batches whose position is two integers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from records import DOMAINS

# Rows kept open while packing; more fill better and cost time.
OPEN_ROWS = 128


@dataclass(frozen=True)
class Documents:
    """Encoded documents, end to end.

    tokens: u16 [n_tokens]; offsets: i64 [n + 1]; prompt_lens: i32 [n], tokens that are given rather than learned;
    domains: u8 [n], index into DOMAINS.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    prompt_lens: np.ndarray
    domains: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt_lens)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def answer(self, i: int) -> np.ndarray:
        """Tokens of a document behind those that are given, u16."""
        return self[i][self.prompt_lens[i] :]

    def has_chain(self, i: int) -> bool:
        """Whether a draft can be judged in a document: answers of one token foresee nothing."""
        return len(self.answer(i)) >= 2

    @classmethod
    def collect(cls, encoded: list[np.ndarray], prompt_lens: list[int], domains: list[int]) -> Self:
        """From one u16 array per document."""
        offsets = np.concatenate(([0], np.cumsum([len(tokens) for tokens in encoded], dtype=np.int64)))
        flat = np.concatenate(encoded) if encoded else np.empty(0, dtype=np.uint16)
        return cls(flat, offsets, np.array(prompt_lens, dtype=np.int32), np.array(domains, dtype=np.uint8))

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path) as arrays:
            return cls(arrays["tokens"], arrays["offsets"], arrays["prompt_lens"], arrays["domains"])

    def save(self, path: Path) -> None:
        np.savez(path, tokens=self.tokens, offsets=self.offsets, prompt_lens=self.prompt_lens, domains=self.domains)

    def of_domain(self, domain: str) -> list[int]:
        """Indices of the documents of a domain."""
        return np.flatnonzero(self.domains == DOMAINS.index(domain)).tolist()

    def summary(self) -> dict[str, int]:
        """Tokens per domain."""
        lengths = np.diff(self.offsets)
        return {name: int(lengths[self.domains == i].sum()) for i, name in enumerate(DOMAINS)}


@dataclass(frozen=True)
class Piece:
    """Tokens `start..stop` of one document."""

    document: int
    start: int
    stop: int


def pieces(documents: Documents, order: list[int], row_len: int) -> Iterator[Piece]:
    """Documents cut to what a row holds: text goes on in another piece; of a pair only the head is kept."""
    for i in order:
        length = len(documents[i])
        prompt_len = int(documents.prompt_lens[i])
        if prompt_len > 0:
            if prompt_len < row_len:
                yield Piece(i, 0, min(length, row_len))
            continue
        for start in range(0, length, row_len):
            # A single token predicts nothing.
            if length - start > 1:
                yield Piece(i, start, min(length, start + row_len))


def packed(all_pieces: Iterator[Piece], row_len: int) -> list[list[Piece]]:
    """Best fit over OPEN_ROWS open rows: a piece goes where it leaves the least room; the fullest row makes way."""
    free = np.full(OPEN_ROWS, row_len, dtype=np.int64)
    rows: list[list[Piece]] = [[] for _ in range(OPEN_ROWS)]
    done: list[list[Piece]] = []
    for piece in all_pieces:
        length = piece.stop - piece.start
        room = np.where(free >= length, free, row_len + 1)
        slot = int(room.argmin())
        if room[slot] > row_len:
            slot = int(free.argmin())
            done.append(rows[slot])
            rows[slot], free[slot] = [], row_len
        rows[slot].append(piece)
        free[slot] -= length
    return done + [row for row in rows if row]


@dataclass(frozen=True)
class Batch:
    """Packed rows.

    tokens: i64 [rows, context_len + 1], inputs without the last column, targets without the first;
    weights: f32 [rows, context_len], of each target in the loss; segments: i64 [rows, context_len], the document an
    input belongs to, 0 for padding.
    """

    tokens: Tensor
    weights: Tensor
    segments: Tensor

    @property
    def inputs(self) -> Tensor:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        return self.tokens[:, 1:]

    def to(self, device: torch.device) -> "Batch":
        moved = (part.to(device, non_blocking=True) for part in (self.tokens, self.weights, self.segments))
        return Batch(*moved)

    def split(self, rows: int) -> Iterator["Batch"]:
        for tokens, weights, segments in zip(
            self.tokens.split(rows), self.weights.split(rows), self.segments.split(rows), strict=True
        ):
            yield Batch(tokens, weights, segments)


def assembled(documents: Documents, rows: list[list[Piece]], context_len: int, prompt_weight: float) -> Batch:
    """Rows of pieces as a batch; padding is token 0 with weight 0."""
    tokens = np.zeros((len(rows), context_len + 1), dtype=np.int64)
    weights = np.zeros((len(rows), context_len + 1), dtype=np.float32)
    segments = np.zeros((len(rows), context_len + 1), dtype=np.int64)
    for r, row in enumerate(rows):
        at = 0
        for segment, piece in enumerate(row, start=1):
            end = at + piece.stop - piece.start
            tokens[r, at:end] = documents[piece.document][piece.start : piece.stop]
            segments[r, at:end] = segment
            given = max(0, int(documents.prompt_lens[piece.document]) - piece.start)
            weights[r, at:end] = 1.0
            weights[r, at : min(end, at + given)] = prompt_weight
            # The first token follows another document, which cannot predict it.
            weights[r, at] = 0.0
            at = end
    return Batch(torch.from_numpy(tokens), torch.from_numpy(weights[:, 1:]), torch.from_numpy(segments[:, :-1]))


class RowStream:
    """Endless rows of packed documents; each epoch has its own order, and the state is (epoch, row)."""

    def __init__(
        self, documents: Documents, context_len: int, prompt_weight: float, seed: int, talk_share: float = 0.0
    ) -> None:
        self.documents, self.context_len, self.prompt_weight, self.seed = documents, context_len, prompt_weight, seed
        self.talk_share = talk_share
        self.epoch, self.row = 0, 0
        self._rows = self._pack(0)

    def _pack(self, epoch: int) -> list[list[Piece]]:
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.documents)).tolist()
        rows = packed(pieces(self.documents, order, self.context_len + 1), self.context_len + 1)
        if not rows:
            raise ValueError(f"no document fits rows of {self.context_len + 1} tokens")
        # Best fit closes full rows early: without a shuffle, poorly filled rows would come last.
        return [rows[i] for i in random.permutation(len(rows))]

    @property
    def rows_per_epoch(self) -> int:
        return len(self._rows)

    @property
    def position(self) -> tuple[int, int]:
        return self.epoch, self.row

    def seek(self, epoch: int, row: int) -> None:
        self._rows = self._pack(epoch)
        self.epoch, self.row = epoch, row

    def next_rows(self, n_rows: int) -> Batch:
        taken: list[list[Piece]] = []
        while len(taken) < n_rows:
            if self.row == len(self._rows):
                self.seek(self.epoch + 1, 0)
            fresh = self._rows[self.row : self.row + n_rows - len(taken)]
            self.row += len(fresh)
            taken += fresh
        batch = assembled(self.documents, taken, self.context_len, self.prompt_weight)
        # In the first rows, documents see each other, as the turns of a conversation do.
        talking = batch.segments[: round(n_rows * self.talk_share)]
        talking.clamp_(max=1)
        return batch


def joined(batches: list[Batch]) -> Batch:
    """One batch out of several of the same context length."""
    return Batch(
        torch.cat([batch.tokens for batch in batches]),
        torch.cat([batch.weights for batch in batches]),
        torch.cat([batch.segments for batch in batches]),
    )
