"""The compiled passes over logits against their formulas."""

import numpy as np
import pytest

import dsde


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def reference(target: np.ndarray, draft: np.ndarray, temperature: float) -> list[np.ndarray]:
    p, q = softmax(target, temperature), softmax(draft, temperature)
    clamped_p, clamped_q = np.maximum(p, 1e-8), np.maximum(q, 1e-8)
    entropy = lambda x: -(x * np.log(np.maximum(x, 1e-300))).sum(-1)
    return [(clamped_p * np.log(clamped_p / clamped_q)).sum(-1), np.abs(p - q).sum(-1) / 2, entropy(q), entropy(p)]


def bf16(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bits, and the numbers that they are; rounded towards zero."""
    bits = (logits.view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("vocab", [1, 7, 64, 1000, 49152])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_divergence_is_its_formula(vocab: int, temperature: float) -> None:
    rng = np.random.default_rng(vocab)
    target = rng.normal(0, 3, (3, vocab)).astype(np.float32)
    draft = target + rng.normal(0, 1, target.shape).astype(np.float32)
    found = dsde.divergence(target, draft, temperature)
    for got, expected in zip(found, reference(target, draft, temperature)):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    entropies, top_probs = dsde.draft_shape(draft, temperature)
    np.testing.assert_allclose(entropies, found.draft_entropies, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(top_probs, softmax(draft, temperature).max(-1), rtol=2e-6)


def test_bf16_is_read_as_it_is() -> None:
    rng = np.random.default_rng(5)
    (target, target_values), (draft, draft_values) = (bf16(rng.normal(0, 3, (2, 333)).astype(np.float32)) for _ in range(2))
    for got, expected in zip(dsde.divergence(target, draft), dsde.divergence(target_values, draft_values)):
        np.testing.assert_array_equal(got, expected)


def test_temperatures_may_differ() -> None:
    rng = np.random.default_rng(6)
    target, draft = (rng.normal(0, 3, (2, 100)).astype(np.float32) for _ in range(2))
    both = dsde.divergence(target, draft, [1.0, 0.5]).klds
    assert both[0] == dsde.divergence(target[:1], draft[:1], 1.0).klds[0]
    assert both[1] == dsde.divergence(target[1:], draft[1:], 0.5).klds[0]


def test_masked_logits_leave_finite_numbers() -> None:
    target = np.zeros((1, 50), np.float32)
    target[0, 1:] = -np.inf
    found = dsde.divergence(target, np.zeros((1, 50), np.float32))
    assert all(np.isfinite(column).all() for column in found)
    assert found.rejections[0] == pytest.approx(1 - 1 / 50)


def test_rows_need_not_be_contiguous() -> None:
    rng = np.random.default_rng(8)
    wide = rng.normal(0, 3, (2, 200)).astype(np.float32)
    assert dsde.draft_shape(wide[:, ::2])[0].tolist() == dsde.draft_shape(np.ascontiguousarray(wide[:, ::2]))[0].tolist()


@pytest.mark.parametrize(
    ("target", "draft", "temperature", "error", "message"),
    [
        (np.zeros((1, 4), np.float32), np.zeros((1, 5), np.float32), 1.0, ValueError, "draft: expected rows of 4 logits, got 5"),
        (np.zeros((2, 4), np.float32), np.zeros((1, 4), np.float32), 1.0, ValueError, "draft_rows: expected indices below 1, got 1"),
        (np.zeros((1, 4)), np.zeros((1, 4)), 1.0, TypeError, "of float32, or of uint16 that are bf16, got ndarray of float64"),
        (np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), 0.0, ValueError, "expected a finite number > 0, got 0"),
        (np.zeros((1, 0), np.float32), np.zeros((1, 0), np.float32), 1.0, ValueError, "target: expected at least one logit per row, got 0"),
    ],
)
def test_wrong_logits_are_refused(target: np.ndarray, draft: np.ndarray, temperature: float, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        dsde.divergence(target, draft, temperature)
