"""What `attach_adapter` did to a model, and the state its modules share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.contract import AdaptedFacts, AdaptedModule, NormCache, Switch
from lorakit.adapters.kept_start import KeptStart
from lorakit.adapters.modules import AdaptedLinear, Dropout
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

DEFAULT_NAME = "default"
_ATTRIBUTE = "_lorakit_attached"


@dataclass(frozen=True)
class StartError:
    """What an init made of one quantized layer, W its original weight and Q what is stored.

    Attributes:
        ratio: ||W - (Q + scaling * B A)|| / ||W - pack(W)||, both as Frobenius norms; None where
            pack(W) is W: nothing could be better.
        plain_difference: ||(pack(W) - scaling * B0 A0) - Q|| / ||W||: what the converted plain
            adapter computes on pack(W) instead; 0 where nothing was subtracted.
    """

    ratio: float | None
    plain_difference: float


@dataclass
class Attached:
    """An adapter in a model.

    Attributes:
        config: what was asked for.
        adapted: {module name: its facts} of the modules with low-rank factors.
        not_adapted: {module or parameter name: reason} for every other weight of two or more
            dimensions.
        modules: {module name: what stands there}, those of `modules_to_save` included.
        biases: {parameter name: (the bias that trains, its frozen value)} of `bias`.
        total: number of all parameters, packed weights counted unpacked.
        dropout: set `dropout.rows` to key the masks by token.
        norm_cache: of kinds that need a norm per forward pass; see `cached_norms`.
        switch: see `adapter_disabled`.
        start_errors: {module name: what its init made of the quantization error}, for inits whose
            start is part of the base.
        name: among the adapters of the model.
        replaced: {module name: what the module there stands in for}; empty where the start is part
            of the base: such an adapter stays.
        resting_biases: {parameter name: its trained value} while another adapter is in use.
    """

    config: LoraConfig
    adapted: dict[str, AdaptedFacts]
    not_adapted: dict[str, str]
    modules: dict[str, AdaptedModule]
    biases: dict[str, tuple[nn.Parameter, torch.Tensor]]
    total: int
    dropout: Dropout
    norm_cache: NormCache
    switch: Switch
    start_errors: dict[str, StartError] = field(default_factory=dict)
    name: str = DEFAULT_NAME
    replaced: dict[str, nn.Module] = field(default_factory=dict)
    resting_biases: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def trainable(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.parameters().values())

    @contextmanager
    def cached_norms(self) -> Iterator[None]:
        """Reuse norms between forward passes until `parameters_changed` is called.

        For a loop that calls `parameters_changed` after every optimizer step; nothing else may
        change the adapter's parameters inside.
        """
        before = self.norm_cache.allowed
        self.parameters_changed()
        self.norm_cache.allowed = True
        try:
            yield
        finally:
            self.norm_cache.allowed = before

    def parameters_changed(self) -> None:
        """Drop what was cached from the parameters."""
        self.norm_cache.version += 1

    def parameters(self) -> dict[str, nn.Parameter]:
        """{name under the model: trained parameter}, in module order, biases of the base last."""
        named = {
            f"{name}.{below}": parameter
            for name, module in self.modules.items()
            for below, parameter in module.trained_parameters().items()
        }
        return named | {name: bias for name, (bias, _) in self.biases.items()}

    def starts(self) -> dict[str, KeptStart]:
        """{module name: what its init made part of the base}, of the layers with such a start."""
        return {
            name: module.kept_start
            for name, module in self.modules.items()
            if isinstance(module, AdaptedLinear) and module.kept_start is not None
        }

    def kept_starts(self) -> dict[str, torch.Tensor]:
        """{module name and part: factor} of what inits made part of the base, each once.

        Parts are those of `low_rank.start_tensors`.
        """
        return {
            f"{name}.{part}": tensor
            for name, kept in self.starts().items()
            for part, tensor in kept.tensors().items()
        }


@dataclass
class Adapters:
    """The adapters of one model.

    Attributes:
        by_name: in the order in which they were attached.
        in_use: name of the one whose modules are in the model.
        by_row: inside `adapters_by_row`, where no single one is in use.
    """

    by_name: dict[str, Attached]
    in_use: str
    by_row: bool = False

    def rename(self, name: str) -> None:
        """Give the only adapter its name."""
        (only,) = self.by_name.values()
        self.by_name, self.in_use = {name: only}, name


def attached(model: PreTrainedModel) -> Attached:
    """The adapter in use in `model`.

    Raises:
        AdapterError: there is none, or inside `adapters_by_row` several.
    """
    adapters = adapters_of(model)
    if adapters.by_row:
        raise AdapterError(
            "inside adapters_by_row no single adapter is in use; possible there are forward and "
            "backward passes. Do what needs one adapter before or after it."
        )
    return adapters.by_name[adapters.in_use]


def adapters_of(model: PreTrainedModel) -> Adapters:
    """All adapters of `model`.

    Raises:
        AdapterError: there is none.
    """
    if not has_adapter(model):
        raise AdapterError(
            f"this {type(model).__name__} has no adapter; attach one with "
            "lorakit.attach_adapter(model, config), or load one with lorakit.load_adapter(model, "
            "folder)."
        )
    adapters = vars(model)[_ATTRIBUTE]
    assert isinstance(adapters, Adapters)
    return adapters


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether `attach_adapter` was called on `model`."""
    return _ATTRIBUTE in vars(model)


def remember(model: PreTrainedModel, adapters: Adapters) -> None:
    """Let `attached(model)` find the adapters."""
    vars(model)[_ATTRIBUTE] = adapters


def forget(model: PreTrainedModel) -> None:
    """Undo `remember`."""
    del vars(model)[_ATTRIBUTE]


def put_frozen_biases(adapter: Attached) -> dict[str, torch.Tensor]:
    """Give the biases that train the base's values; {parameter name: the trained value}."""
    trained = {name: bias.data for name, (bias, _) in adapter.biases.items()}
    for bias, frozen in adapter.biases.values():
        bias.data = frozen.to(bias.device, bias.dtype)
    return trained


@contextmanager
def adapter_disabled(model: PreTrainedModel) -> Iterator[None]:
    """Inside, `model` computes what its base computes: biases and `modules_to_save` switch back
    too.

    May be nested; an exception inside switches the adapter on again.

    Raises:
        AdapterError: the model has no adapter.
    """
    adapter = attached(model)
    before = adapter.switch.on
    adapter.switch.on = False
    trained = put_frozen_biases(adapter) if before else {}
    try:
        yield
    finally:
        adapter.switch.on = before
        for name, value in trained.items():
            adapter.biases[name][0].data = value
