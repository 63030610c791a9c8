"""AdamW over one flat buffer, whose update a device-side flag can refuse without asking the host.

Loshchilov and Hutter, arXiv 1711.05101, in the form of `torch.optim.AdamW`:

    p <- p * (1 - lr * weight_decay)
    m <- m + (1 - beta1) * (g - m);  v <- beta2 * v + (1 - beta2) * g**2
    p <- p - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + epsilon)

Parameters, gradients and both moments are four flat float32 tensors (adapters are few, and rounding
them to bfloat16 loses small updates); float32 parameters and their gradients become views of them.
A parameter of a smaller dtype (a trained bias of a bfloat16 base) has its master copy there.
Because a single non-finite gradient gates everything, the weights always are those of the last good
step.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lorakit.errors import InputError

# Elements updated at a time: the temporaries of a step stay a few MiB whatever the adapter's size.
CHUNK = 1 << 20

# transformers' Trainer (get_decay_parameter_names, 5.x) leaves these out of weight decay, and the
# parameters of nn.LayerNorm. A, B and DoRA's magnitudes do decay, as under PEFT + Trainer.
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


@dataclass(frozen=True)
class StepFlags:
    """What the device knows after a step, not yet read by the host.

    Attributes:
        grad_norm: 0-d, norm of the whole gradient before clipping.
        finite: 0-d bool, whether this and all earlier steps were finite and so took effect.
    """

    grad_norm: torch.Tensor
    finite: torch.Tensor


class AdamW:
    """The optimizer of the loop. Gradients accumulate into `.grad` of the parameters as usual."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        decayed: frozenset[str] = frozenset(),
    ) -> None:
        """Move the parameters into a flat buffer: float32, or float64 when one of them is.

        Args:
            parameters: {name: trainable parameter}, all on one device.
            betas: decay of the two moments.
            epsilon: added to the root of the second moment.
            weight_decay: decoupled decay, times the learning rate.
            decayed: the names that `weight_decay` applies to, see `decayed_names`.

        Raises:
            InputError: no parameter, or parameters on several devices.
        """
        _check_parameters(parameters)
        names = sorted(
            parameters, key=lambda name: name not in decayed
        )  # stable: decayed ones first
        self.num_steps = 0
        self._beta1, self._beta2 = betas
        self._epsilon = epsilon
        self._weight_decay = weight_decay
        self._num_decayed = sum(parameters[name].numel() for name in names if name in decayed)
        self._places = _places({name: parameters[name].shape for name in names})
        dtype = functools.reduce(
            torch.promote_types, (p.dtype for p in parameters.values()), torch.float32
        )
        self._flat = torch.cat([parameters[name].detach().flatten().to(dtype) for name in names])
        self._grad = torch.zeros_like(self._flat)
        self._mean = torch.zeros_like(self._flat)
        self._square = torch.zeros_like(self._flat)
        self._finite = torch.ones((), dtype=torch.bool, device=self._flat.device)
        self._owned = dict(parameters)
        self._rounded = {name: p for name, p in parameters.items() if p.dtype != dtype}
        for name, parameter in self._owned.items():
            if name in self._rounded:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.data = self._view(self._flat, name)
                parameter.grad = self._view(self._grad, name)

    def zero_grad(self) -> None:
        """Gradients back to 0, in place."""
        self._grad.zero_()
        for parameter in self._rounded.values():
            assert parameter.grad is not None
            parameter.grad.zero_()

    def step(
        self,
        learning_rate: float,
        loss: torch.Tensor,
        *,
        divisor: float = 1.0,
        max_grad_norm: float | None = None,
        reduce_gradient: Callable[[torch.Tensor], object] | None = None,
    ) -> StepFlags:
        """Clip and update, unless the loss or a gradient is not finite or once was not.

        Nothing here waits for the device. A refused step changes neither parameters nor moments,
        and neither does any later one.

        Args:
            learning_rate: of this step.
            loss: 0-d, of the step; only whether it is finite matters.
            divisor: the gradient, summed over ranks, is divided by it first.
            max_grad_norm: the gradient is scaled down to this norm; None: it is not.
            reduce_gradient: called with the flat gradient first, to sum it over ranks in place.
        """
        self.num_steps += 1
        for name, parameter in self._rounded.items():
            assert parameter.grad is not None
            self._view(self._grad, name).copy_(parameter.grad)
        if reduce_gradient is not None:
            reduce_gradient(self._grad)
        self._grad.div_(divisor)
        norm = torch.linalg.vector_norm(self._grad)
        self._finite = self._finite & torch.isfinite(norm) & torch.isfinite(loss.detach())
        if max_grad_norm is not None:
            # torch.nn.utils.clip_grad_norm_'s formula, 1e-6 included.
            self._grad.mul_((max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        for start in range(0, self._flat.numel(), CHUNK):
            self._update(slice(start, start + CHUNK), learning_rate)
        self._round()
        return StepFlags(norm, self._finite)

    def _update(self, chunk: slice, learning_rate: float) -> None:
        flat, grad = self._flat[chunk], self._grad[chunk]
        mean = self._mean[chunk].lerp(grad, 1 - self._beta1)
        square = self._square[chunk].mul(self._beta2).addcmul_(grad, grad, value=1 - self._beta2)
        root_correction = (1 - self._beta2**self.num_steps) ** 0.5
        denominator = square.sqrt().div_(root_correction).add_(self._epsilon)
        updated = flat.clone()
        num_decayed = max(0, self._num_decayed - chunk.start)
        updated[:num_decayed].mul_(1 - learning_rate * self._weight_decay)
        step_size = learning_rate / (1 - self._beta1**self.num_steps)
        updated.addcdiv_(mean, denominator, value=-step_size)
        for target, value in (
            (flat, updated),
            (self._mean[chunk], mean),
            (self._square[chunk], square),
        ):
            # Selection, not multiplication by 0: 0 * NaN would be NaN.
            torch.where(self._finite, value, target, out=target)

    def parameters(self) -> dict[str, torch.Tensor]:
        """{name: the parameter's values}, views of the flat buffer."""
        return {name: self._view(self._flat, name) for name in self._places}

    def moments(self) -> dict[str, torch.Tensor]:
        """Both moments by name, `exp_avg.NAME` and `exp_avg_sq.NAME`: views, for a checkpoint."""
        first = {f"exp_avg.{name}": self._view(self._mean, name) for name in self._places}
        second = {f"exp_avg_sq.{name}": self._view(self._square, name) for name in self._places}
        return first | second

    def set_parameters(self, values: Mapping[str, torch.Tensor]) -> None:
        """Copy other values, such as `parameters()` once returned, into the parameters."""
        for name, view in self.parameters().items():
            view.copy_(values[name])
        self._round()

    def restore(
        self,
        num_steps: int,
        parameters: Mapping[str, torch.Tensor],
        moments: Mapping[str, torch.Tensor],
    ) -> None:
        """Go on from a checkpoint: copies what `parameters()` and `moments()` once returned.

        The caller has checked that the names and shapes are the same.
        """
        self.num_steps = num_steps
        for name, view in self.moments().items():
            view.copy_(moments[name])
        self.set_parameters(parameters)

    def release(self) -> None:
        """Give every parameter its own tensor again, and no gradient; the optimizer is spent."""
        for parameter in self._owned.values():
            parameter.data = parameter.data.clone()
            parameter.grad = None

    def _round(self) -> None:
        for name, parameter in self._rounded.items():
            parameter.data.copy_(self._view(self._flat, name))

    def _view(self, buffer: torch.Tensor, name: str) -> torch.Tensor:
        start, shape = self._places[name]
        return buffer[start : start + shape.numel()].view(shape)


def decayed_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters weight decay applies to: all but biases and norms, as in Trainer."""
    in_layer_norms = {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    return frozenset(
        name
        for name, _ in model.named_parameters()
        if name not in in_layer_norms and not _NOT_DECAYED.search(name.lower())
    )


def _places(shapes: Mapping[str, torch.Size]) -> dict[str, tuple[int, torch.Size]]:
    """{name: (start in the flat buffer, shape)}, one after the other."""
    places, start = {}, 0
    for name, shape in shapes.items():
        places[name] = (start, shape)
        start += shape.numel()
    return places


def _check_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    if not parameters:
        raise InputError(
            "the model has no trainable parameter; attach an adapter first: lorakit.attach_adapter."
        )
    devices = sorted({str(p.device) for p in parameters.values()})
    if len(devices) > 1:
        raise InputError(
            f"trainable parameters are on several devices: {', '.join(devices)}; they must be on "
            "one. Move the adapter with model.to(device)."
        )
