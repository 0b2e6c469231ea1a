"""What training minimises: negative log likelihood of the text, and KL(target || draft)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data import Batch
from model import Backbone, Llama, document_mask


@dataclass(frozen=True)
class LossSums:
    """Weighted sums over the counted targets of a batch, nats."""

    total: Tensor
    text: Tensor
    kld: Tensor


def batch_loss(
    model: Llama, backbone: Backbone, batch: Batch, teacher: Llama | None = None, teacher_share: float = 0.0
) -> LossSums:
    """Loss of a batch: `(1 - teacher_share) * text + teacher_share * KLD`.

    `backbone` is `model.model`, possibly compiled. Only rows whose target counts reach the output matrix, which is most
    of the memory: prompts and padding produce no logits.
    """
    mask = document_mask(batch.segments)
    counted = batch.weights > 0
    weights = batch.weights[counted]
    logits = model.logits(backbone(batch.inputs, mask)[counted])
    log_q = F.log_softmax(logits, dim=-1)
    text = -(log_q.gather(1, batch.targets[counted].unsqueeze(1)).squeeze(1) * weights).sum()
    if teacher is None:
        return LossSums(text, text.detach(), torch.zeros((), device=text.device))
    with torch.no_grad():
        log_p = F.log_softmax(teacher.logits(teacher.model(batch.inputs, mask)[counted]), dim=-1)
    divergence = (kld(log_p, log_q) * weights).sum()
    total = (1.0 - teacher_share) * text + teacher_share * divergence
    return LossSums(total, text.detach(), divergence.detach())


def kld(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension, nats, from log probabilities; p is the target, q the draft."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def overlap(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Sum of min(p, q) = 1 - TV(p, q): the probability that rejection sampling keeps a token drafted from q."""
    return torch.minimum(log_p, log_q).exp().sum(-1)
