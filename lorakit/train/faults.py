"""When training goes wrong: which module was the first, and which tensors never trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached
from lorakit.engine.modules import Stand
from lorakit.errors import AdapterError
from lorakit.train.batches import StepBatch
from lorakit.train.step import backward


def name_first_non_finite(
    model: PreTrainedModel, adapter: Attached, batch: StepBatch, *, seed: int
) -> str:
    """Replay a failed step and say where the first NaN or infinity appears.

    The parameters are read, never written; the replay's gradients are added to theirs.

    Args:
        model: with the very parameters the step failed with, in the mode it trains in.
        batch: of the failed step.
        seed: of the dropout masks.
    """
    found: list[str] = []
    hooks = [
        module.register_forward_hook(_watch(name or type(model).__name__, found))
        for name, module in model.named_modules()
    ]
    adapter.parameters_changed()
    try:
        # Fused, several modules are computed at once, and no hook sees what is in between.
        with kernels.reference_only():
            loss = backward(model, adapter, batch, seed=seed)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    if not torch.isfinite(loss):
        return "the loss, from finite logits"
    spoiled = [
        name
        for name, parameter in adapter.parameters().items()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    if spoiled:
        return f"the gradient of {spoiled[0]}"
    return "nothing in a replay of the batch on this process: the fault did not happen again"


def _watch(name: str, found: list[str]):
    """A forward hook that reports the module's output, and the gradient that reaches it."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if not found and not torch.isfinite(tensor).all():
                found.append(f"the output of {name}")
            if tensor.requires_grad:
                tensor.register_hook(on_gradient)

    def on_gradient(gradient: torch.Tensor) -> None:
        if not found and not torch.isfinite(gradient).all():
            found.append(f"the gradient that reaches the output of {name}")

    return hook


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


@contextmanager
def every_tensor_trains(model: PreTrainedModel, adapter: Attached) -> Iterator[None]:
    """Around a backward pass: every trained tensor of a module that was used must get a gradient.

    A parameter whose module was not called (an expert no token was sent to) is left out.

    Raises:
        AdapterError: naming those that received none.
    """
    parameters = adapter.parameters()
    called: set[int] = set()
    received: set[str] = set()

    def on_call(module: nn.Module, inputs: Any) -> None:
        # A fused module computes with its children and does not call them.
        called.update(map(id, module.modules() if isinstance(module, Stand) else [module]))

    fused = {
        id(child)
        for stand in model.modules()
        if isinstance(stand, Stand)
        for child in stand.modules()
        if child is not stand
    }
    owners = {
        id(parameter): module
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    }
    # A fused module calls children that have hooks, one by one: these would change what is tested.
    watched = [module for module in model.modules() if id(module) not in fused]
    hooks = [module.register_forward_pre_hook(on_call) for module in watched]
    hooks += [
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: received.add(name))
        for name, parameter in parameters.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    missing = [
        name
        for name, parameter in parameters.items()
        if name not in received and id(owners[id(parameter)]) in called
    ]
    if missing:
        raise AdapterError(
            f"{len(missing)} of {len(parameters)} trained tensors got no gradient in the first "
            f"step, so they would never train: {', '.join(missing[:5])}. Leave their modules out "
            "with exclude_modules."
        )
