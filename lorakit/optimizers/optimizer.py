"""AdamW over one flat buffer, whose update a device-side flag can refuse without asking the host.

Parameters, gradients and moments are flat tensors; float32 parameters and their gradients become
views of them, because adapters are few, and rounding them to bfloat16 loses small updates. A
parameter of a smaller dtype (a trained bias of a bfloat16 base) has its master copy there. The
rule is in `adamw.py`, the order in the buffers in `layout.py`, what is kept of the moments in
`codecs/`, and where in `state.py`. Because a single non-finite gradient gates everything, the
weights always are those of the last good step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lorakit.errors import CheckpointError, InputError
from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.layout import Page
from lorakit.optimizers.state import Fields, PagedState, ResidentState, State
from lorakit.optimizers.state_plan import StatePlan, plan_state


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
        plan: StatePlan | None = None,
        *,
        rule: AdamWRule | None = None,
    ) -> None:
        """Move the parameters into a flat buffer: float32, or float64 when one of them is.

        Args:
            parameters: {name: trainable parameter}, all on one device.
            plan: what `plan_state` returned for them; None: for float32 moments, no decay.
            rule: betas, epsilon and weight decay; None: their defaults.

        Raises:
            InputError: no parameter, or parameters on several devices.
        """
        device = _device_of(parameters)
        self.plan = plan or plan_state(parameters, device_type=device.type)
        self.num_steps = 0
        self._rule = rule or AdamWRule()
        self._layout = self.plan.layout
        self._flat = torch.zeros(self._layout.size, dtype=self._layout.dtype, device=device)
        self._grad = torch.zeros_like(self._flat)
        self._state: State = (
            ResidentState(self._layout, device)
            if self.plan.budget is None
            else PagedState(self._layout, device, self.plan.budget)
        )
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._hooks: list[RemovableHandle] = []
        self._owned = dict(parameters)
        self._rounded = {n: p for n, p in parameters.items() if p.dtype != self._layout.dtype}
        for name, parameter in self._owned.items():
            self._view(self._flat, name).copy_(parameter.detach())
            if name in self._rounded:
                parameter.grad = torch.zeros_like(parameter)
                self._sum_wide(name, parameter, parameter.grad)
            else:
                parameter.data = self._view(self._flat, name)
                parameter.grad = self._view(self._grad, name)

    def _sum_wide(self, name: str, parameter: nn.Parameter, narrow: torch.Tensor) -> None:
        """Sum the gradients of micro-batches in the flat buffer: in the parameter's own dtype
        each addition would round (2 % off after 512 of them in bfloat16).
        """
        this = weakref.ref(self)  # the hook stays on the parameter, the optimizer may not

        def move(_: torch.Tensor) -> None:
            optimizer = this()
            if optimizer is not None and parameter.grad is narrow:  # not another optimizer's
                optimizer._view(optimizer._grad, name).add_(narrow)
                narrow.zero_()

        self._hooks.append(parameter.register_post_accumulate_grad_hook(move))

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
            view = self._view(self._grad, name)
            # Whoever looks at the parameter sees the whole gradient.
            parameter.grad.copy_(view.add_(parameter.grad))
        if reduce_gradient is not None:
            reduce_gradient(self._grad)
        self._grad.div_(divisor)
        norm = torch.linalg.vector_norm(self._grad)
        self._finite = self._finite & torch.isfinite(norm) & torch.isfinite(loss.detach())
        if max_grad_norm is not None:
            # torch.nn.utils.clip_grad_norm_'s formula, 1e-6 included.
            self._grad.mul_((max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        order = range(len(self._layout.pages))
        # To and fro: what the last step left on the device is what this one needs first.
        for page, state in self._state.visit(order if self.num_steps % 2 else order[::-1]):
            self._update(page, state, learning_rate)
        self._round()
        return StepFlags(norm, self._finite)

    def rehearse(self) -> None:
        """Go through a step with the gradients that are there, and refuse it: takes what a step
        takes, and leaves parameters, moments and the number of steps as they are, gradients 0.
        """
        num_steps, finite = self.num_steps, self._finite
        self._finite = torch.zeros_like(finite)
        try:
            self.step(0.0, torch.zeros_like(finite, dtype=self._layout.dtype), max_grad_norm=1.0)
        finally:
            self.num_steps, self._finite = num_steps, finite
            self.zero_grad()

    def _update(self, page: Page, state: Fields, learning_rate: float) -> None:
        codec = self._layout.regions[page.region].codec
        values = self._flat[page.start : page.stop]
        updated, mean, square = self._rule.update(
            values,
            self._grad[page.start : page.stop],
            *codec.decode(state, self._layout.dtype),
            num_steps=self.num_steps,
            learning_rate=learning_rate * page.group.lr_factor,
            decays=page.group.decays,
        )
        encoded = codec.encode(mean, square)
        for target, value in ((values, updated), *((state[n], encoded[n]) for n in state)):
            # Selection, not multiplication by 0: 0 * NaN would be NaN.
            torch.where(self._finite, value, target, out=target)

    def evict(self, num_bytes: int | None = None) -> int:
        """Take state off the device, where it can be elsewhere, to make room for something else.

        Args:
            num_bytes: wanted; None: all.

        Returns:
            Bytes that were given up.
        """
        return self._state.evict(self._state.resident_bytes if num_bytes is None else num_bytes)

    def forget_pages(self) -> None:
        """As if there had been no step: no state on the device that can be elsewhere, and no page
        counted in `facts`."""
        self._state.begin_anew()

    def facts(self) -> dict[str, int | str]:
        """The form, the bytes of its state, and what was paged so far."""
        return {
            "optim": self.plan.optim,
            "state_bytes": self._layout.state_bytes,
            "pages": len(self._layout.pages),
            **asdict(self._state.traffic),
        }

    def parameters(self) -> dict[str, torch.Tensor]:
        """{name: the parameter's values}, views of the flat buffer."""
        return {name: self._view(self._flat, name) for name in self._layout.places}

    def moments(self) -> dict[str, torch.Tensor]:
        """What is kept of both moments, by field and name, such as `exp_avg.NAME`: views, for a
        checkpoint; 8-bit codes and scales as they are."""
        return self._state.settled().named()

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

        Raises:
            CheckpointError: other names, shapes or dtypes; nothing was copied.
        """
        self.evict()  # pages on the device would go on with the old values
        views = self.moments()
        _check_alike(parameters, self.parameters())
        _check_alike(moments, views)
        self.num_steps = num_steps
        for name, view in views.items():
            view.copy_(moments[name])
        self.set_parameters(parameters)

    def release(self) -> None:
        """Give every parameter its own tensor again, and no gradient; the optimizer is spent."""
        for parameter in self._owned.values():
            parameter.data = parameter.data.clone()
            parameter.grad = None
        for hook in self._hooks:
            hook.remove()
        self.evict()

    def _round(self) -> None:
        for name, parameter in self._rounded.items():
            parameter.data.copy_(self._view(self._flat, name))

    def _view(self, buffer: torch.Tensor, name: str) -> torch.Tensor:
        place = self._layout.places[name]
        return buffer[place.start : place.stop].view(place.shape)


def _device_of(parameters: Mapping[str, nn.Parameter]) -> torch.device:
    devices = sorted({str(p.device) for p in parameters.values()})
    if len(devices) > 1:
        raise InputError(
            f"trainable parameters are on several devices: {', '.join(devices)}; they must be on "
            "one. Move the adapter with model.to(device)."
        )
    return torch.device(devices[0] if devices else "cpu")


def _check_alike(stored: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    kinds = [
        {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        for tensors in (stored, expected)
    ]
    other = sorted(
        name
        for name in kinds[0].keys() | kinds[1].keys()
        if kinds[0].get(name) != kinds[1].get(name)
    )
    if other:
        raise CheckpointError(
            f"the checkpoint does not fit the optimizer: {other[0]} is "
            f"{kinds[0].get(other[0], 'missing')} there and {kinds[1].get(other[0], 'unknown')} "
            f"here ({len(other)} tensors differ). Resume with what the run was started with."
        )
