"""Dropout whose mask is a pure function of keys: no generator to save, replay or keep in order.

A row (one token of one example at one step) has a 64-bit key; feature pair k of that row draws the
64 bits `finalize(row_key + (k + 1) * GOLDEN)`, the splitmix64 generator seeded by the row key
(Steele et al., OOPSLA 2014; finalizer: Stafford's variant 13). Feature 2k reads the low and feature
2k + 1 the high 32 bits as an unsigned number u, and is kept when `u >= p * 2**32`. Integers wrap
modulo 2**64, so every device and dtype gives the same mask.
"""

from __future__ import annotations

import hashlib

import torch

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)


def dropout_mask(
    row_keys: torch.Tensor, num_features: int, p: float, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """What to multiply activations with: 0 where dropped, 1 / (1 - p) where kept.

    Args:
        row_keys: int64 (rows,), from `mix_keys`; rows with equal keys get equal masks.
        num_features: features of each row.
        p: probability to drop, in [0, 1).
        dtype: of the result.

    Returns:
        (rows, num_features) on the device of `row_keys`.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout p is {p!r}; it must be at least 0 and less than 1.")
    num_pairs = (num_features + 1) // 2
    counters = torch.arange(1, num_pairs + 1, dtype=torch.int64, device=row_keys.device)
    bits = _finalize(row_keys[:, None] + (counters * _signed(GOLDEN))[None, :])
    # int64 -> two int32, low half first (little-endian, as on every device torch runs on). Flipping
    # the sign bit subtracts 2**31, which turns an unsigned comparison into a signed one.
    uniform = (bits.view(torch.int32) ^ -(2**31))[:, :num_features]
    kept = uniform >= threshold(p) - 2**31
    return kept.to(dtype).mul_(1 / (1 - p))


def keyed_dropout(x: torch.Tensor, row_keys: torch.Tensor, p: float) -> torch.Tensor:
    """`x` (rows, features) times its `dropout_mask`. Linear in `x`, so it is its own backward."""
    return x * dropout_mask(row_keys, x.shape[-1], p, x.dtype)


def threshold(p: float) -> int:
    """The least unsigned 32-bit number that is kept."""
    return min(round(p * 2**32), 2**32 - 1)


def mix_keys(*parts: int | torch.Tensor) -> torch.Tensor:
    """One 64-bit key from several numbers; their order matters.

    Args:
        parts: integers (taken modulo 2**64) and int64 tensors that broadcast against each other,
            such as seed, step, example index and position.

    Returns:
        int64 tensor of the broadcast shape.
    """
    key = torch.zeros((), dtype=torch.int64)
    for part in parts:
        number = part if isinstance(part, torch.Tensor) else torch.tensor(_signed(part))
        key = _finalize((key + _signed(GOLDEN)) ^ number)
    return key


def module_key(name: str) -> int:
    """A 64-bit key of a module's name, the same in every process."""
    return _signed(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def _finalize(x: torch.Tensor) -> torch.Tensor:
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, None), strict=True):
        # int64 >> is arithmetic; the mask clears the copies of the sign bit.
        x = x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))
        if multiplier is not None:
            x = x * _signed(multiplier)
    return x


def _signed(number: int) -> int:
    """The int64 with the same 64 bits."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >= 1 << 63 else number
