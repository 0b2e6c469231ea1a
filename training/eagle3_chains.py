"""EAGLE-3's training-time test (arXiv 2503.01840, section 3.2): chains of a head's own steps, all of a batch at once.

A chain starts at each row i whose prediction lies in the answer, and in the prompt too if asked. Its step 0 reads the
target's streams at i; step s > 0 reads the head's own un-normed output of step s - 1. Step s attends to the rows 0..=i
that read the target's streams, as a server has them after a verification, and to the steps 1..=s of its own chain. The
tokens it reads are those of the text, which are the drafted ones as long as all drafts before were right.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eagle3_features import Features
from eagle3_head import Head


@dataclass(frozen=True)
class Batch:
    """Documents of a batch, flat: rows are those of the true prefix, starts are the chains.

    tokens: i64 [n_tokens]; taps: f32 [n_rows, 3 * hidden_size]; last: f32 [n_starts, hidden_size], from which the
    target draws what step 0 of each start foresees; row_tokens: i64 [n_rows], index into `tokens` of the token a row
    stands for; row_positions: i64 [n_rows], row i of its document; row_slots: i64 [n_rows], place in a table
    [documents, rows_max]; start_rows: i64 [n_starts], into the rows; start_slots: i64 [n_starts], place in a table
    [documents, starts_max]; room: i64 [n_starts], steps of which the text knows the answer.
    """

    tokens: Tensor
    taps: Tensor
    last: Tensor
    row_tokens: Tensor
    row_positions: Tensor
    row_slots: Tensor
    start_rows: Tensor
    start_slots: Tensor
    room: Tensor
    n_documents: int
    rows_max: int
    starts_max: int

    def step_starts(self, step: int) -> Tensor:
        """The starts, i64, whose step `step` foresees a token of the text."""
        return torch.nonzero(self.room > step).squeeze(1)

    def foreseen(self, step: int) -> Tensor:
        """The token of the text that each of `step_starts(step)` has to foresee."""
        return self.tokens[self.row_tokens[self.start_rows[self.step_starts(step)]] + 1 + step]


def batch_of(chosen: list[tuple[Features, int]], device: torch.device, from_prompts: bool = False) -> Batch:
    """Documents of at least two tokens of answer each as one batch; chains start in answers, or in prompts too."""
    tokens, taps, last = [], [], []
    lists: list[list[Tensor]] = [[] for _ in range(6)]
    lengths = [len(part.documents[i]) for part, i in chosen]
    # The first start of each foresees its first token to be learned.
    first_starts = [0 if from_prompts else int(part.documents.prompt_lens[i]) - 1 for part, i in chosen]
    rows_max = max(lengths) - 2
    starts_max = max(n - first for n, first in zip(lengths, first_starts, strict=True)) - 2
    n_tokens = n_rows = 0
    for document, ((part, i), length, first) in enumerate(zip(chosen, lengths, first_starts, strict=True)):
        streams = part.of(i)
        # Row i stands for the token i + 1, and the last token foresees nothing that the text knows.
        rows = torch.arange(length - 2)
        starts = torch.arange(first, length - 2)
        tokens.append(torch.from_numpy(part.documents[i].astype("int64")))
        taps.append(streams[: length - 2, :3].flatten(1))
        last.append(streams[starts + 1, 3])
        columns = (
            n_tokens + rows + 1,
            rows,
            document * rows_max + rows,
            n_rows + starts,
            document * starts_max + starts - first,
            length - 2 - starts,
        )
        for column, values in zip(lists, columns, strict=True):
            column.append(values)
        n_tokens += length
        n_rows += length - 2
    parts = [torch.cat(tokens), torch.cat(taps).float(), torch.cat(last).float(), *map(torch.cat, lists)]
    return Batch(*(part.to(device) for part in parts), len(chosen), rows_max, starts_max)


def spread(flat: Tensor, slots: Tensor, n_documents: int, places: int) -> Tensor:
    """[n, heads, head_dim] into a zeroed table [n_documents, heads, places, head_dim]."""
    table = flat.new_zeros(n_documents * places, *flat.shape[1:])
    return table.index_copy(0, slots, flat).unflatten(0, (n_documents, places)).transpose(1, 2)


def gathered(table: Tensor, slots: Tensor) -> Tensor:
    """The inverse of `spread` for the used slots."""
    return table.transpose(1, 2).flatten(0, 1)[slots]


def chain_hidden(head: Head, embeddings: Tensor, batch: Batch, n_steps: int) -> list[Tensor]:
    """Un-normed outputs [n_starts, hidden_size] of each step; those of starts without room for it have no meaning.

    embeddings: f32 [n_tokens, hidden_size], the target's embeddings of `batch.tokens`.
    """
    layer = head.midlayer
    group = head.shape.layer.n_heads // head.shape.layer.n_kv_heads
    # Under autocast too the stream is f32, as in a server.
    prefix = head.fc(batch.taps).float()
    normed = layer.normed(embeddings[batch.row_tokens], prefix)
    keys, values = (
        spread(part, batch.row_slots, batch.n_documents, batch.rows_max)
        for part in layer.keys_values(normed, batch.row_positions)
    )
    visible = prefix_mask(batch)
    own_keys: list[Tensor] = []
    own_values: list[Tensor] = []
    hidden, normed = prefix[batch.start_rows], normed[batch.start_rows]
    outputs = []
    for step in range(n_steps):
        positions = batch.row_positions[batch.start_rows] + step
        if step:
            token = (batch.row_tokens[batch.start_rows] + step).clamp(max=len(batch.tokens) - 1)
            normed = layer.normed(embeddings[token], hidden)
            for kept, part in zip((own_keys, own_values), layer.keys_values(normed, positions), strict=True):
                kept.append(spread(part, batch.start_slots, batch.n_documents, batch.starts_max))
        queries = spread(layer.queries(normed, positions), batch.start_slots, batch.n_documents, batch.starts_max)
        attended = chain_attention(queries.unflatten(1, (-1, group)), keys, values, visible, own_keys, own_values)
        hidden = layer.output(hidden, gathered(attended.flatten(1, 2), batch.start_slots))
        outputs.append(hidden)
    return outputs


def prefix_mask(batch: Batch) -> Tensor:
    """What starts see of the true prefix, as f32 [documents, 1, 1, starts_max, rows_max] to be added: 0 or -inf."""
    n_seen = batch.tokens.new_ones(batch.n_documents * batch.starts_max)
    n_seen[batch.start_slots] = batch.row_positions[batch.start_rows] + 1
    places = torch.arange(batch.rows_max, device=n_seen.device)
    hidden = places >= n_seen.view(batch.n_documents, 1, 1, batch.starts_max, 1)
    return torch.zeros(hidden.shape, device=n_seen.device).masked_fill(hidden, -math.inf)


def chain_attention(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, own_keys: list[Tensor], own_values: list[Tensor]
) -> Tensor:
    """Attention over the true prefix and over the steps of the own chain, which are one key per start and step.

    queries: [documents, n_kv_heads, group, starts, head_dim]; keys, values: [documents, n_kv_heads, rows, head_dim];
    visible: [documents, 1, 1, starts, rows]; own: one [documents, n_kv_heads, starts, head_dim] per step.
    """
    queries = queries / math.sqrt(queries.shape[-1])
    n_documents, n_kv_heads, group, starts, head_dim = queries.shape
    together = queries.reshape(n_documents, n_kv_heads, group * starts, head_dim)
    scores = (together @ keys.transpose(-1, -2)).view(n_documents, n_kv_heads, group, starts, -1) + visible
    own_scores = [(queries * own.unsqueeze(2)).sum(-1, keepdim=True) for own in own_keys]
    weights = torch.cat((scores, *own_scores), dim=-1).softmax(-1)
    n_rows = keys.shape[2]
    prefix = weights[..., :n_rows].reshape(n_documents, n_kv_heads, group * starts, n_rows) @ values
    attended = prefix.view_as(queries)
    for step, own in enumerate(own_values):
        attended = attended + weights[..., n_rows + step, None] * own.unsqueeze(2)
    return attended
