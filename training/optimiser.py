"""Muon for matrices, AdamW for the embedding and the norms.

Muon replaces the averaged gradient of a matrix by the nearest matrix with orthonormal rows or columns, so that all
directions learn equally fast; on short runs it needs clearly fewer steps than AdamW.
"""

import torch
from torch import Tensor

# AdamW's decay of gradient averages; 0.95 instead of the default 0.999 suits short runs with large batches.
BETAS = (0.9, 0.95)
MOMENTUM = 0.95
# Quintic that drives singular values in 0..1 towards 1 in few steps, and the number of steps.
QUINTIC, N_QUINTIC_STEPS = (3.4445, -4.7750, 2.0315), 5
# Size of an update beside one of AdamW with the same rate.
UPDATE_RMS = 0.2


def orthogonal(matrix: Tensor, is_bf16: bool = False) -> Tensor:
    """About the nearest matrix whose singular values are 1; f32, or computed in bf16 and good to two digits."""
    a, b, c = QUINTIC
    x = matrix.float()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / (x.norm() + 1e-7)
    x = x.to(torch.bfloat16) if is_bf16 else x
    for _ in range(N_QUINTIC_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if is_tall else x).float()


class Muon(torch.optim.Optimizer):
    """Groups with `muon` true take orthogonal updates, the others those of AdamW."""

    def __init__(self, groups: list[dict], is_bf16: bool = False) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "muon": False})
        self._is_bf16 = is_bf16

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                update = self._orthogonal_update if group["muon"] else self._adam_update
                parameter.add_(update(self.state[parameter], parameter.grad), alpha=-group["lr"])

    def _orthogonal_update(self, state: dict, gradient: Tensor) -> Tensor:
        average = state.setdefault("average", torch.zeros_like(gradient))
        average.lerp_(gradient, 1.0 - MOMENTUM)
        ahead = gradient.lerp(average, MOMENTUM)
        return orthogonal(ahead, self._is_bf16) * (UPDATE_RMS * max(gradient.shape) ** 0.5)

    def _adam_update(self, state: dict, gradient: Tensor) -> Tensor:
        first = state.setdefault("first", torch.zeros_like(gradient))
        second = state.setdefault("second", torch.zeros_like(gradient))
        n = state["n"] = state.get("n", 0) + 1
        first.lerp_(gradient, 1.0 - BETAS[0])
        second.lerp_(gradient.square(), 1.0 - BETAS[1])
        spread = (second / (1.0 - BETAS[1] ** n)).sqrt() + 1e-8
        return first / (1.0 - BETAS[0] ** n) / spread
