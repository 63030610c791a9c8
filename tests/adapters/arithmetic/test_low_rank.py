"""The maths of factors against dense matrices in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.adapters.arithmetic.low_rank import (
    LowRank,
    distance,
    effective_rank,
    norm,
    padded,
    rank_for,
    singular_values,
    truncated,
    weighted_sum,
)

SHAPES = [(1, 7, 5, 3), (1, 6, 40, 9), (1, 4, 4, 6), (3, 5, 8, 2), (1, 30, 3, 1)]


def random_change(shape: tuple[int, int, int, int], seed: int = 0, scaling: float = 0.7) -> LowRank:
    num_experts, out_features, in_features, rank = shape
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(num_experts, out_features, rank, generator=generator).double()
    down = torch.randn(num_experts, rank, in_features, generator=generator).double()
    bias = torch.randn(out_features, generator=generator).double()
    return LowRank(up, down, scaling, bias)


def dense(change: LowRank) -> torch.Tensor:
    return change.scaling * change.up @ change.down


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaling", [0.7, 4.0, -2.0])
def test_the_spectrum_is_that_of_the_product(
    shape: tuple[int, int, int, int], scaling: float
) -> None:
    change = random_change(shape, scaling=scaling)
    values, expected = singular_values(change), torch.linalg.svdvals(dense(change))
    assert values.shape[1] == min(shape[1:])
    torch.testing.assert_close(values, expected[:, : values.shape[1]], rtol=1e-9, atol=1e-12)
    assert math.isclose(norm(change), float(dense(change).norm()), rel_tol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_truncation_is_the_best_there_is(shape: tuple[int, int, int, int]) -> None:
    """Eckart and Young: numpy's SVD of the dense product, cut, is what no rank-k matrix beats."""
    change = random_change(shape)
    for rank in range(1, min(shape[1:]) + 1):
        u, s, vt = np.linalg.svd(dense(change).numpy(), full_matrices=False)
        best = torch.from_numpy((u[:, :, :rank] * s[:, None, :rank]) @ vt[:, :rank])
        cut = truncated(change, rank)
        assert cut.rank == rank and cut.scaling == 1.0
        torch.testing.assert_close(dense(cut), best, rtol=1e-9, atol=1e-9)
        assert cut.bias is not None and change.bias is not None
        torch.testing.assert_close(cut.bias, change.bias * change.scaling)
        tail = float(torch.from_numpy(s)[:, rank:].norm())
        assert math.isclose(distance(change, cut), tail, rel_tol=1e-9, abs_tol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    scalings=st.lists(st.floats(0.01, 9), min_size=4, max_size=4),
)
def test_a_sum_is_the_sum_of_the_products(weights: list[float], scalings: list[float]) -> None:
    parts = [
        (weight, random_change((2, 6, 5, 1 + seed), seed, scalings[seed]))
        for seed, weight in enumerate(weights)
    ]
    total = weighted_sum(parts)
    expected = torch.stack([weight * dense(part) for weight, part in parts]).sum(dim=0)
    torch.testing.assert_close(dense(total), expected, rtol=1e-9, atol=1e-9)
    biases = [weight * part.scaling * part.bias for weight, part in parts if part.bias is not None]
    assert total.bias is not None
    torch.testing.assert_close(total.scaling * total.bias, torch.stack(biases).sum(dim=0))
    assert distance(total, total) <= 1e-12 * max(norm(total), 1.0)
    folded = weighted_sum([(1.0, total.folded()), (-1.0, padded(total, total.rank + 3))])
    assert norm(folded) <= 1e-12 * max(norm(total), 1.0)


def test_the_rank_for_an_error_is_the_least() -> None:
    values = torch.tensor([[4.0, 2.0, 1.0, 0.5, 0.0]], dtype=torch.float64)
    total = float(values.norm())
    for rank in range(1, 5):
        error = float(values[:, rank:].norm()) / total
        assert rank_for(values, error) == rank
        if error > 0:
            assert rank_for(values, error * 0.999) == rank + 1
    assert rank_for(torch.zeros(1, 3).double(), 0.0) == 1
    assert rank_for(values, 0.999) == 1


def test_the_effective_rank() -> None:
    assert effective_rank(torch.zeros(4)) == 0.0
    assert math.isclose(effective_rank(torch.ones(5)), 5.0, rel_tol=1e-6)
    assert effective_rank(torch.tensor([1.0, 0.0])) == 1.0
