"""The loss of a head: cross-entropy against the target's distribution over the reduced vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eagle3_chains import Batch, chain_hidden
from eagle3_head import Head

# Logits that exist at one time: 8 MB, which stay near the processor.
CHUNK_LOGITS = 2**21


class SoftCrossEntropy(torch.autograd.Function):
    """Weighted sum of cross-entropies, and how many rows agree with the target's first choice.

    hidden: [n, hidden_size]; weight: [vocabulary, hidden_size]; wanted: the distributions [m, vocabulary] of a slice of
    the rows; weights: f32 [n]. The gradients are computed with the loss, chunk by chunk, so that the logits of a batch
    never exist as a whole.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, wanted: Callable[[slice], Tensor], weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        total, agrees = hidden.new_zeros(()), torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        for_hidden = torch.empty_like(hidden)
        for_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        low_weight, low_hidden = (multiplied_as(part) for part in (weight, hidden))
        for chunk in chunks(len(hidden), len(weight)):
            log_q = F.linear(low_hidden[chunk], low_weight).log_softmax(-1, dtype=torch.float32)
            p = wanted(chunk)
            # Where both are largest; amax is many times as fast as argmax.
            agrees[chunk] = ((log_q == log_q.amax(-1, keepdim=True)) & (p == p.amax(-1, keepdim=True))).any(-1)
            total -= (log_q.mul(p).sum(-1) * weights[chunk]).sum()
            for_logits = log_q.exp_().sub_(p).mul_(weights[chunk, None]).to(low_weight.dtype)
            for_hidden[chunk] = (for_logits @ low_weight).float()
            if for_weight is not None:
                for_weight += for_logits.T @ low_hidden[chunk]
        ctx.for_hidden, ctx.for_weight = for_hidden, for_weight
        ctx.mark_non_differentiable(agrees)
        return total, agrees

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        for_weight = None if ctx.for_weight is None else ctx.for_weight * upstream
        return ctx.for_hidden * upstream, for_weight, None, None


def chunks(n: int, vocab_size: int) -> list[slice]:
    """Slices of `n` rows of logits, as many at a time as stay near the processor."""
    size = max(1, CHUNK_LOGITS // vocab_size)
    return [slice(start, start + size) for start in range(0, n, size)]


@dataclass(frozen=True)
class ChainLoss:
    """Loss of a batch, averaged over starts and weighted by step; agreement with the target per step, detached."""

    total: Tensor
    agreement: list[float]


def multiplied_as(x: Tensor) -> Tensor:
    """The type in which autocast multiplies, cast once for all chunks."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def distributions(output_rows: Tensor, last: Tensor) -> Callable[[slice], Tensor]:
    """The target's distributions over some tokens, f32 [n, len(output_rows)], for a slice of hidden states.

    output_rows: the rows of the target's output matrix for those tokens; last: [m, hidden_size], behind its final norm.
    """
    low_rows, low_last = multiplied_as(output_rows), multiplied_as(last)
    return lambda chunk: F.linear(low_last[chunk], low_rows).softmax(-1, dtype=torch.float32)


def wanted_distributions(output_rows: Tensor, batch: Batch) -> Tensor:
    """The target's distributions over the reduced vocabulary, [n_starts, draft_vocab_size], for step 0 of starts."""
    wanted = distributions(output_rows, batch.last)
    return torch.cat([wanted(chunk) for chunk in chunks(len(batch.last), len(output_rows))])


def chain_loss(
    head: Head, embeddings: Tensor, output_rows: Tensor, batch: Batch, step_weights: list[float]
) -> ChainLoss:
    """Cross-entropy of all steps of all chains; what step s of start c should foresee is step 0 of start c + s."""
    outputs = chain_hidden(head, embeddings, batch, len(step_weights))
    starts = [batch.step_starts(step) for step in range(len(step_weights))]
    hidden = head.norm(torch.cat([output[chosen] for output, chosen in zip(outputs, starts, strict=True)]))
    rows = torch.cat([chosen + step for step, chosen in enumerate(starts)])
    weights = torch.cat(
        [
            hidden.new_full((len(chosen),), weight / sum(step_weights) / max(1, len(chosen)))
            for weight, chosen in zip(step_weights, starts, strict=True)
        ]
    )
    all_wanted = wanted_distributions(output_rows, batch)
    total, agrees = SoftCrossEntropy.apply(hidden, head.lm_head.weight, lambda chunk: all_wanted[rows[chunk]], weights)
    by_step = agrees.split([len(chosen) for chosen in starts])
    return ChainLoss(total, [float(part.float().mean()) if len(part) else 0.0 for part in by_step])
