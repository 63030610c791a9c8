"""Low-rank changes of a weight, and what is exact about them: sums, norms, best approximations.

E experts (1 for a plain layer), O out_features, I in_features, R rank, K = min(R, O, I).

The change is `scaling * up @ down`, per expert. Nothing here makes the (O, I) product: sums are
concatenations on the rank, and the singular values are those of the R x R core between the QR
factors of both sides. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lorakit.errors import AdapterError


@dataclass(frozen=True)
class LowRank:
    """One layer's change.

    Attributes:
        up: lora_B, float64 (E, O, R).
        down: lora_A, float64 (E, R, I).
        scaling: of the product, and of the bias.
        bias: of lora_B (PEFT's lora_bias), float64 (O,); None where there is none.
    """

    up: torch.Tensor
    down: torch.Tensor
    scaling: float
    bias: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """R as stored; the change itself may have less."""
        return self.down.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, O, I) of the change."""
        num_experts, out_features, _ = self.up.shape
        return num_experts, out_features, self.down.shape[2]

    @property
    def most_rank(self) -> int:
        """The rank that no (O, I) matrix exceeds."""
        return min(self.shape[1:])

    def folded(self) -> LowRank:
        """The same change with scaling 1."""
        bias = None if self.bias is None else self.bias * self.scaling
        return LowRank(self.up * self.scaling, self.down, 1.0, bias)

    def cast(self, dtype: torch.dtype) -> LowRank:
        """The change that is left once the factors are stored in `dtype`."""
        bias = None if self.bias is None else self.bias.to(dtype).double()
        up, down = self.up.to(dtype).double(), self.down.to(dtype).double()
        return LowRank(up, down, self.scaling, bias)


def weighted_sum(parts: Sequence[tuple[float, LowRank]]) -> LowRank:
    """`sum of weight * change`, by concatenation on the rank: exact.

    Where weight * scaling is the same positive number for all, it stays the scaling and no factor
    is touched; otherwise it goes into `up`.
    """
    factors = [weight * part.scaling for weight, part in parts]
    scaling = factors[0] if min(factors) == max(factors) > 0 else 1.0
    ups = [part.up * (f / scaling) for f, (_, part) in zip(factors, parts, strict=True)]
    biases = [
        part.bias * (f / scaling)
        for f, (_, part) in zip(factors, parts, strict=True)
        if part.bias is not None
    ]
    return LowRank(
        torch.cat(ups, dim=2),
        torch.cat([part.down for _, part in parts], dim=1),
        scaling,
        torch.stack(biases).sum(dim=0) if biases else None,
    )


def singular_values(change: LowRank) -> torch.Tensor:
    """Of the change, descending, (E, K).

    Raises:
        AdapterError: they are beyond float64.
    """
    r_up = torch.linalg.qr(change.up, mode="r").R
    r_down = torch.linalg.qr(change.down.mT, mode="r").R
    core = r_up @ r_down.mT * change.scaling
    # The norm squares: what it cannot hold is no adapter.
    if not torch.isfinite(core.norm()):
        raise AdapterError(
            f"the factors go up to {float(change.up.abs().max()):.3g} and "
            f"{float(change.down.abs().max()):.3g} at scaling {change.scaling:.3g}, whose product "
            "float64 cannot hold; possible: values as training leaves them. Restore the file."
        )
    return torch.linalg.svdvals(core)


def norm(change: LowRank) -> float:
    """Frobenius norm of the change, all experts together."""
    return float(singular_values(change).norm())


def distance(one: LowRank, other: LowRank) -> float:
    """Frobenius norm of the difference of two changes; 0 where their factors are the same."""
    same = one.scaling == other.scaling
    if same and torch.equal(one.up, other.up) and torch.equal(one.down, other.down):
        return 0.0
    return norm(weighted_sum([(1.0, one), (-1.0, other)]))


def truncated(change: LowRank, rank: int) -> LowRank:
    """The best approximation of a rank in the Frobenius norm (Eckart and Young), per expert.

    The singular values are split evenly between both factors; the scaling becomes 1.
    """
    q_up, r_up = torch.linalg.qr(change.up)
    q_down, r_down = torch.linalg.qr(change.down.mT)
    u, s, vt = torch.linalg.svd(r_up @ r_down.mT * change.scaling, full_matrices=False)
    root = s[:, :rank].sqrt()
    bias = None if change.bias is None else change.bias * change.scaling
    return LowRank(
        q_up @ u[:, :, :rank] * root.unsqueeze(1),
        root.unsqueeze(2) * (vt[:, :rank] @ q_down.mT),
        1.0,
        bias,
    )


def rank_for(values: torch.Tensor, max_error: float) -> int:
    """The smallest rank, at least 1, whose relative Frobenius error is at most `max_error`.

    Args:
        values: singular values, descending, (E, K).
        max_error: relative; what is kept of the energy is `1 - max_error ** 2`.
    """
    energy = values.square().sum(dim=0)
    # Summed from the smallest on, so that small tails are not lost beside large heads.
    tails = energy.flip(0).cumsum(0).flip(0)
    enough = tails <= max_error**2 * tails[0]
    return max(int((~enough).sum()), 1)


def padded(change: LowRank, rank: int) -> LowRank:
    """The same change with zeros added up to a rank."""
    missing = rank - change.rank
    if missing == 0:
        return change
    num_experts, out_features, in_features = change.shape
    up = torch.cat([change.up, change.up.new_zeros(num_experts, out_features, missing)], dim=2)
    down = torch.cat([change.down, change.down.new_zeros(num_experts, missing, in_features)], dim=1)
    return replace(change, up=up, down=down)


def effective_rank(values: torch.Tensor) -> float:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007); 0 for zero.

    Args:
        values: singular values (K,).
    """
    total = float(values.sum())
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return math.exp(float(-(shares * shares.log()).sum()))
