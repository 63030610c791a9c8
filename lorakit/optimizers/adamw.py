"""The update rule of AdamW, the same for every form of the state.

Loshchilov and Hutter, arXiv 1711.05101, in the form of `torch.optim.AdamW`:

    p <- p * (1 - lr * weight_decay)
    m <- m + (1 - beta1) * (g - m);  v <- beta2 * v + (1 - beta2) * g**2
    p <- p - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + epsilon)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AdamWRule:
    """The rule and its constants.

    Attributes:
        betas: decay of the two moments.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled decay, times the learning rate.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def update(
        self,
        values: torch.Tensor,
        grad: torch.Tensor,
        mean: torch.Tensor,
        square: torch.Tensor,
        *,
        num_steps: int,
        learning_rate: float,
        decays: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One step for a part of the parameters; the arguments stay as they are.

        Args:
            values, grad, mean, square: (N,) of one dtype, in which all is computed.
            num_steps: this step's number, from 1.
            learning_rate: of this step and part.
            decays: whether weight decay applies.

        Returns:
            values, mean and square after the step, new tensors.
        """
        beta1, beta2 = self.betas
        mean = mean.lerp(grad, 1 - beta1)
        square = square.mul(beta2).addcmul_(grad, grad, value=1 - beta2)
        root_correction = (1 - beta2**num_steps) ** 0.5
        denominator = square.sqrt().div_(root_correction).add_(self.epsilon)
        decay = learning_rate * self.weight_decay if decays else 0.0
        updated = values.mul(1 - decay)
        updated.addcdiv_(mean, denominator, value=-learning_rate / (1 - beta1**num_steps))
        return updated, mean, square
