"""Sums over the tokens of each completion, and statistics that add up.

N tokens of S completions, one completion after the other.
"""

from __future__ import annotations

import torch

# {name: float64 (2,), a sum and how much it is the sum of}, on the device.
Statistics = dict[str, torch.Tensor]


def at_each(per_completion: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(S,) -> (N,): its completion's value at each token.

    Args:
        lengths: int64 (S,), tokens of each completion.
    """
    return per_completion.repeat_interleave(lengths)


def sum_of_each(per_token: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(N,) -> (S,), differentiable. Added up in order on every device, unlike `index_add`."""
    return torch.segment_reduce(per_token, "sum", lengths=lengths, initial=0)


def mean_of_each(per_token: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(N,) -> (S,), over the tokens of each completion, of which there is one at least."""
    return sum_of_each(per_token, lengths) / lengths


def counted(values: torch.Tensor) -> torch.Tensor:
    """One entry of `Statistics`: the sum of the values, and how many they are."""
    total = values.sum(dtype=torch.float64)
    return torch.stack([total, torch.full_like(total, values.numel())])


def add_statistics(total: Statistics, more: Statistics) -> None:
    """Add `more` to `total`, in place."""
    for name, entry in more.items():
        total[name] = total[name] + entry if name in total else entry
