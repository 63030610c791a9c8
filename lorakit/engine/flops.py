"""How many floating-point operations the matrix products of a step are: a product of (m, k) and
(k, n) counts 2 m k n. Attention is not in it.

T tokens (padding counts), N trained positions, D hidden size, V vocabulary, I in_features, O
out_features, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptedShape:
    """A frozen linear layer with low-rank factors beside it.

    Attributes:
        input_gradient: whether anything below the layer trains.
        has_norms: DoRA: the norms of its rows are made anew in every optimizer step.
    """

    in_features: int
    out_features: int
    r: int
    input_gradient: bool = True
    has_norms: bool = False

    def flops(self, num_tokens: int) -> int:
        """Of one forward and backward pass over T tokens."""
        return self.forward_flops(num_tokens) + self.backward_flops(num_tokens)

    def forward_flops(self, num_tokens: int) -> int:
        """W x, A x, B (A x)."""
        return 2 * num_tokens * sum(self._sizes())

    def backward_flops(self, num_tokens: int) -> int:
        """Of the factors and what is between them three products as large as one of the factors
        each; of the input W^T dy and A^T ds."""
        weight, down, up = self._sizes()
        return 2 * num_tokens * (2 * up + down + (weight + down if self.input_gradient else 0))

    def norm_flops(self) -> int:
        """Of the row norms of one optimizer step: W A^T, A A^T and B (A A^T)."""
        if not self.has_norms:
            return 0
        weight, down, up = self._sizes()
        return 2 * self.r * (weight + down + up)

    def _sizes(self) -> tuple[int, int, int]:
        return (
            self.in_features * self.out_features,
            self.in_features * self.r,
            self.out_features * self.r,
        )


def head_flops(num_trained: int, hidden_size: int, vocab_size: int) -> int:
    """Of a frozen output head at N trained positions: the logits, and the gradient of its input."""
    return 2 * 2 * num_trained * hidden_size * vocab_size


def step_flops(
    layers: Iterable[AdaptedShape],
    micro_batches: Iterable[tuple[int, int]],
    *,
    hidden_size: int,
    vocab_size: int,
) -> int:
    """Of one optimizer step.

    Args:
        layers: all adapted layers of the model.
        micro_batches: (T, N) of each.
    """
    layers = list(layers)
    of_passes = sum(
        sum(layer.flops(num_tokens) for layer in layers)
        + head_flops(num_trained, hidden_size, vocab_size)
        for num_tokens, num_trained in micro_batches
    )
    return of_passes + sum(layer.norm_flops() for layer in layers)
