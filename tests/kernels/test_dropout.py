"""The counter-based dropout mask: exact by definition, and statistically a dropout mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lorakit import kernels

P = 0.1


def _rows(step: int, *, num_examples: int = 16, num_positions: int = 64) -> torch.Tensor:
    examples = torch.arange(num_examples)[:, None]
    positions = torch.arange(num_positions)[None, :]
    return kernels.mix_keys(42, step, examples, positions).flatten()


def _dropped(step: int = 0, module: str = "q_proj", num_features: int = 256) -> torch.Tensor:
    keys = kernels.mix_keys(_rows(step), kernels.module_key(module))
    return kernels.dropout_mask(keys, num_features, P) == 0


def _exact_mask(row_keys: list[int], num_features: int, p: float) -> np.ndarray:
    """The definition in Python's unbounded integers."""
    modulus = 1 << 64
    mask = np.empty((len(row_keys), num_features))
    for r, key in enumerate(row_keys):
        for f in range(num_features):
            x = (key + (f // 2 + 1) * 0x9E3779B97F4A7C15) % modulus
            x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % modulus
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB % modulus
            x ^= x >> 31
            uniform = (x >> 32) if f % 2 else x & 0xFFFFFFFF
            mask[r, f] = 1 / (1 - p) if uniform >= round(p * 2**32) else 0
    return mask


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("num_features", [1, 2, 7, 64])
def test_equals_the_definition_in_unbounded_integers(p: float, num_features: int) -> None:
    keys = torch.cat([torch.tensor([0, 1, -1, 2**63 - 1, -(2**63)]), _rows(3)[:11]])
    mask = kernels.dropout_mask(keys, num_features, p, torch.float64)
    assert np.array_equal(mask.numpy(), _exact_mask(keys.tolist(), num_features, p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_elements_are_kept_in_every_dtype(dtype: torch.dtype) -> None:
    keys = _rows(0)
    mask = kernels.dropout_mask(keys, 33, P, dtype)
    assert mask.dtype == dtype
    assert torch.equal(mask != 0, kernels.dropout_mask(keys, 33, P, torch.float64) != 0)
    assert torch.equal(mask[mask != 0].unique(), torch.tensor([1 / (1 - P)], dtype=dtype))


def test_a_row_s_mask_does_not_depend_on_the_rows_around_it() -> None:
    keys = _rows(0)
    order = torch.randperm(len(keys))
    assert torch.equal(
        kernels.dropout_mask(keys, 32, P)[order], kernels.dropout_mask(keys[order], 32, P)
    )


def test_the_share_of_dropped_elements_is_p_in_every_row_and_column() -> None:
    dropped = _dropped().double()
    for dim in (0, 1):
        count = dropped.shape[dim]
        deviations = (dropped.mean(dim) - P) * math.sqrt(count / (P * (1 - P)))
        # Standard normal but for the discreteness: mean 0, variance 1, no outlier.
        assert abs(deviations.mean().item()) < 5 / math.sqrt(len(deviations))
        assert deviations.var().item() == pytest.approx(1, abs=0.35)
        assert deviations.abs().max().item() < 5.5


@pytest.mark.parametrize(
    "other",
    [
        {"step": 1},
        {"module": "k_proj"},
        {"module": "model.layers.0.q_proj"},
    ],
)
def test_masks_of_different_steps_and_modules_are_uncorrelated(other: dict[str, object]) -> None:
    _assert_uncorrelated(_dropped(), _dropped(**other))


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (0, 2), (64, 0), (1, 1), (2, 2)])
def test_neighbouring_rows_and_columns_are_uncorrelated(shift: tuple[int, int]) -> None:
    dropped = _dropped()
    rows, columns = shift
    _assert_uncorrelated(
        dropped[rows:, columns:], dropped[: len(dropped) - rows, : dropped.shape[1] - columns]
    )


def _assert_uncorrelated(a: torch.Tensor, b: torch.Tensor) -> None:
    a, b = a.double() - P, b.double() - P
    correlation = (a * b).mean().item() / (P * (1 - P))
    assert abs(correlation) < 5 / math.sqrt(a.numel())


def test_keys_are_distinct_and_order_matters() -> None:
    keys = torch.cat([_rows(step) for step in range(20)])
    assert len(keys.unique()) == len(keys)
    assert kernels.mix_keys(1, 2) != kernels.mix_keys(2, 1)
    assert kernels.mix_keys(0) != kernels.mix_keys(0, 0)
    assert kernels.mix_keys(-1).dtype == torch.int64


def test_module_keys_are_the_same_in_every_process() -> None:
    # hashlib.blake2b(b"q_proj", digest_size=8) read as a little-endian int64.
    assert kernels.module_key("q_proj") == -1972681691624437615
    assert kernels.module_key("q_proj") != kernels.module_key("k_proj")


def test_a_p_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        kernels.dropout_mask(_rows(0), 4, 1.0)
