"""Several adapters on one base: a model has the modules of one of them, the others rest beside it.

So a model with several adapters is, in all that it computes, saves and merges, the model with the
one in use. The frozen weights are there once, and nobody writes to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.attached import (
    Attached,
    adapters_of,
    attached,
    forget,
    has_adapter,
    put_frozen_biases,
    remember,
)
from lorakit.adapters.contract import AdaptedModule
from lorakit.base.frozen_experts import put_parameters_back
from lorakit.errors import AdapterError


def adapter_names(model: PreTrainedModel) -> list[str]:
    """The names of the adapters on `model`, the one in use first, then as they were attached."""
    if not has_adapter(model):
        return []
    adapters = adapters_of(model)
    return [adapters.in_use, *(name for name in adapters.by_name if name != adapters.in_use)]


def use_adapter(model: PreTrainedModel, name: str) -> Attached:
    """Switch to another adapter: from here on `model` computes, trains, saves and merges that one.

    The others keep what they have learned. Hooks on adapted modules stay with their adapter.

    Args:
        model: with attached adapters; changed in place.
        name: as given to `attach_adapter` or `load_adapter`.

    Returns:
        The adapter in use, as `attach_adapter` returned it.

    Raises:
        AdapterError: there is no adapter of that name, or the one in use is disabled.
    """
    before, after = attached(model), find(model, name)
    if after is not before:
        refuse_fixed(model, before)
        take_out(model, before)
        put_in(model, after)
        adapters_of(model).in_use = name
    return after


def drop_adapter(model: PreTrainedModel, name: str) -> None:
    """Take an adapter off `model`; after the last one the model is its base again, frozen.

    Raises:
        AdapterError: there is no adapter of that name, or it is in use beside others.
    """
    in_use, adapter = attached(model), find(model, name)
    adapters = adapters_of(model)
    if adapter is in_use:
        others = [other for other in adapters.by_name if other != name]
        if others:
            raise AdapterError(
                f"adapter {name!r} is in use; possible: to drop one that is not, here "
                f"{', '.join(map(repr, others))}. Call lorakit.use_adapter(model, {others[0]!r}) "
                "first."
            )
        refuse_fixed(model, adapter)
        take_out(model, adapter)
        forget(model)
        put_parameters_back(model)
        del vars(model)["save_pretrained"]
    else:
        del adapters.by_name[name]


@contextmanager
def room_for(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Inside, `model` is its base, to attach one more adapter, which is in use afterwards.

    After an error the model is as it was.

    Args:
        name: of the new adapter.

    Raises:
        AdapterError: the name is taken, or one of the adapters can only stand alone.
    """
    if not name:
        raise AdapterError("the adapter's name is empty; possible: any text. Give name=.")
    if not has_adapter(model):
        yield
        first = attached(model)
        first.name = name
        if first.starts():  # what it replaced is another weight, which nobody needs any more
            first.replaced.clear()
        adapters_of(model).rename(name)
        return
    before, adapters = attached(model), adapters_of(model)
    if name in adapters.by_name:
        raise AdapterError(
            f"this {type(model).__name__} has an adapter already that is called {name!r}; possible "
            f"are several of different names, or one after lorakit.merge(model). Give name=, or "
            f"take it off with lorakit.drop_adapter(model, {name!r})."
        )
    refuse_fixed(model, before)
    take_out(model, before)
    forget(model)
    try:
        yield
        after = attached(model)
        if after.starts():
            raise AdapterError(_stands_alone(after, f"the adapter {name!r}"))
    except BaseException:
        if has_adapter(model):
            take_out(model, attached(model))
        put_in(model, before)
        remember(model, adapters)
        raise
    after.name = name
    adapters.by_name[name], adapters.in_use = after, name
    remember(model, adapters)


def find(model: PreTrainedModel, name: str) -> Attached:
    """The adapter called `name`.

    Raises:
        AdapterError: there is none; those that there are, are named.
    """
    by_name = adapters_of(model).by_name
    if name not in by_name:
        raise AdapterError(
            f"there is no adapter {name!r} on this {type(model).__name__}; possible are "
            f"{', '.join(map(repr, by_name))}. Name one of them, or load it with "
            f"lorakit.load_adapter(model, folder, name={name!r})."
        )
    return by_name[name]


def refuse_fixed(model: PreTrainedModel, in_use: Attached) -> None:
    """Raise AdapterError where the adapter in use cannot make room for another."""
    if in_use.starts():
        raise AdapterError(_stands_alone(in_use, f"the adapter {in_use.name!r} in use"))
    if not in_use.switch.on:
        raise AdapterError(
            f"inside adapter_disabled the adapters of this {type(model).__name__} cannot be "
            "switched; possible: before or after it. Move the call."
        )


def _stands_alone(adapter: Attached, which: str) -> str:
    return (
        f"{which} has init_lora_weights {adapter.config.init_lora_weights!r}, whose start is part "
        "of its base, so that no other adapter fits that base; possible beside others is its plain "
        "form, a LoRA on the base as it was (where that is quantized, not quite the same model: "
        "the output says by how much). Save it, call lorakit.convert_adapter(saved, output) and "
        "load the output."
    )


def take_out(model: PreTrainedModel, adapter: Attached) -> None:
    """Put what the adapter's modules stand in for back into `model`, its biases included."""
    for name, module in adapter.modules.items():
        _set_mode(adapter.replaced[name], module.training)
    replace_modules(
        model, {id(module): adapter.replaced[name] for name, module in adapter.modules.items()}
    )
    adapter.resting_biases = put_frozen_biases(adapter)
    for bias, _ in adapter.biases.values():
        bias.requires_grad_(False)
        bias.grad = None


def put_in(model: PreTrainedModel, adapter: Attached) -> None:
    """Undo `take_out`."""
    follow(model, adapter)
    replace_modules(
        model, {id(adapter.replaced[name]): module for name, module in adapter.modules.items()}
    )
    for name, (bias, _) in adapter.biases.items():
        bias.data = adapter.resting_biases.pop(name).to(bias.device, bias.dtype)
        bias.requires_grad_(True)


def follow(model: PreTrainedModel, adapter: Attached) -> None:
    """Bring a resting adapter to the device and mode that its base has by now."""
    device = model.device
    for name, module in adapter.modules.items():
        _set_mode(module, adapter.replaced[name].training)
        if any(parameter.device != device for parameter in module.trained_parameters().values()):
            module.to(device)


def _set_mode(module: nn.Module, training: bool) -> None:
    if module.training != training:  # walking through all modules is most of a switch
        module.train(training)


def replace_modules(model: nn.Module, replaced: Mapping[int, nn.Module]) -> None:
    """Put the new modules at every place of the old ones (a module may stand at several).

    Args:
        replaced: {id of the old module: the new one}.
    """
    for parent in list(model.modules()):
        if isinstance(parent, AdaptedModule):
            continue
        for child_name, child in list(parent._modules.items()):
            if id(child) in replaced:
                setattr(parent, child_name, replaced[id(child)])
