"""The optimiser: orthogonal updates of matrices, AdamW for the rest."""

import torch
from torch import nn

from optimiser import UPDATE_RMS, Muon, orthogonal


def test_an_orthogonal_matrix_keeps_directions_and_evens_out_their_strength() -> None:
    generator = torch.Generator().manual_seed(1)
    for shape in ((12, 20), (20, 12)):
        matrix = torch.randn(shape, generator=generator)
        strengths = torch.linalg.svdvals(orthogonal(matrix))
        assert strengths.min() > 0.6 and strengths.max() < 1.3
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inner = (left.T @ orthogonal(matrix) @ right.T).diagonal()
        assert torch.allclose(inner, strengths.sort(descending=True).values, atol=0.7) and inner.min() > 0.6


def test_bf16_is_about_as_orthogonal() -> None:
    matrix = torch.randn(12, 20, generator=torch.Generator().manual_seed(1))
    update = orthogonal(matrix, is_bf16=True)
    assert update.dtype == torch.float32
    assert (update - orthogonal(matrix)).norm() < 0.05 * update.norm()


def test_matrices_move_by_the_size_of_the_rate_and_others_as_under_adamw() -> None:
    torch.manual_seed(2)
    matrix, vector, reference = (nn.Parameter(torch.randn(8, 16)) for _ in range(3))
    vector.data = reference.data.clone()
    before = matrix.detach().clone()
    gradient = torch.randn(8, 16)
    for parameter in (matrix, vector, reference):
        parameter.grad = gradient.clone()
    ours = Muon([{"params": [matrix], "muon": True}, {"params": [vector], "weight_decay": 0.1}])
    for group in ours.param_groups:
        group["lr"] = 0.01
    theirs = torch.optim.AdamW([reference], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(3):
        ours.step()
        theirs.step()
    assert torch.allclose(vector, reference, atol=1e-6)
    moved = (matrix - before).square().mean().sqrt().item()
    assert 0.7 < moved / (3 * 0.01 * UPDATE_RMS) < 1.3


def test_a_saved_state_goes_on_the_same() -> None:
    def steps(n: int, state: dict | None, value: torch.Tensor) -> tuple[torch.Tensor, dict]:
        weight = nn.Parameter(value.clone())
        some = Muon([{"params": [weight], "muon": True, "weight_decay": 0.1}])
        if state:
            some.load_state_dict(state)
        some.param_groups[0]["lr"] = 0.1
        for _ in range(n):
            weight.grad = weight.detach().cos()
            some.step()
        return weight.detach(), some.state_dict()

    start = torch.linspace(-1, 1, 12).view(3, 4)
    whole, _ = steps(5, None, start)
    half, state = steps(2, None, start)
    assert torch.equal(steps(3, state, half)[0], whole)
