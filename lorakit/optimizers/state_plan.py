"""What an optimizer keeps and where, known before there is one: for the planner, and so that what
cannot work is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from lorakit.base.placement import parse_bytes
from lorakit.errors import InputError
from lorakit.optimizers import forms
from lorakit.optimizers.groups import Group, parameter_groups
from lorakit.optimizers.layout import Layout, layout_of

DEFAULT_OPTIM = "adamw_torch"
DEFAULT_BUDGET = 64 << 20  # bytes on the device where the recipe says nothing


@dataclass(frozen=True)
class StatePlan:
    """What an optimizer keeps, known before there is one.

    Attributes:
        optim: its name.
        layout: of the parameters.
        device_type: where the parameters are.
        budget: bytes of state that are resident there at most; None: all of it is.
    """

    optim: str
    layout: Layout
    device_type: str
    budget: int | None

    @property
    def resident_bytes(self) -> int:
        """Bytes of state that can be updated without fetching them, at most."""
        state = self.layout.state_bytes
        return state if self.budget is None else min(state, self.budget)

    @property
    def host_bytes(self) -> int:
        """Bytes of state that wait in host memory."""
        return 0 if self.budget is None else self.layout.state_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes of the device's memory: on a CPU it is the host's as well."""
        return self.resident_bytes + (self.host_bytes if self.device_type == "cpu" else 0)


def plan_state(
    parameters: Mapping[str, torch.Tensor],
    groups: Mapping[str, Group] | None = None,
    *,
    optim: str = DEFAULT_OPTIM,
    memory: int | None = None,
    device_type: str = "cpu",
) -> StatePlan:
    """Lay out the state of an optimizer.

    Args:
        parameters: {name: trained parameter}, on the meta device too.
        groups: see `parameter_groups`; None: nothing decays.
        optim: see `forms.names`.
        memory: bytes of state that may be on the device, with a paged form; None: 64 MiB, and two
            pages at least.
        device_type: where the parameters are, or will be.

    Raises:
        InputError: nothing to train, no such optimizer, or a memory too small for two pages.
    """
    form = forms.form(optim)
    layout = layout_of(parameters, groups or {}, form.CODEC, device_type)
    if not form.PAGED:
        return StatePlan(optim, layout, device_type, None)
    smallest = layout.smallest_budget
    if memory is not None and memory < smallest:
        raise InputError(
            f"optim_memory of {memory:,} bytes holds no two pages of the optimizer's state, one "
            f"that is updated and the next one; possible: {smallest:,} bytes or more (all of it: "
            f"{layout.state_bytes:,}). Raise train.optim_memory."
        )
    budget = max(DEFAULT_BUDGET, smallest) if memory is None else memory
    return StatePlan(optim, layout, device_type, budget)


class OptimizerOptions(Protocol):
    """The options of the recipe's `train` section that say what an optimizer keeps."""

    @property
    def optim(self) -> str: ...
    @property
    def optim_memory(self) -> str | None: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def loraplus_lr_ratio(self) -> float | None: ...
    @property
    def loraplus_lr_embedding(self) -> float | None: ...


def state_plan_of(
    model: nn.Module,
    parameters: Mapping[str, torch.Tensor],
    options: OptimizerOptions,
    device_type: str,
) -> StatePlan:
    """The state of the optimizer that `options` ask for.

    Args:
        model: with the adapter attached, on the meta device too.
        parameters: {name in the model: trained parameter}.
        options: meanings and defaults are those of the recipe's `train` section.
        device_type: where the parameters are, or will be.

    Raises:
        InputError: options that cannot work or that nothing answers to.
    """
    groups = parameter_groups(
        model,
        parameters,
        learning_rate=options.learning_rate,
        loraplus_lr_ratio=options.loraplus_lr_ratio,
        loraplus_lr_embedding=options.loraplus_lr_embedding,
    )
    return plan_state(
        parameters,
        groups,
        optim=options.optim,
        memory=parse_bytes(options.optim_memory, option="train.optim_memory"),
        device_type=device_type,
    )
