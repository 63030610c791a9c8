"""Storing a model's linear weights while transformers loads them, one tensor at a time.

transformers hands each tensor, as it is read (of experts: as it is put together), to the operation
of an `HfQuantizer`. Ours puts the weight into its storage and its place, replaces the layer by a
`FrozenLinear` over it (the experts' parameter by a `FrozenExperts`) and lets the tensor go, so the
peak is the stored model plus one tensor. Registered in transformers' official
registry, under our own name, at the first load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps, WeightTransform
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin, QuantizationMethod

from lorakit.base import fused_loading
from lorakit.base.checkpoint import TensorEntry
from lorakit.base.frozen_linear import (
    FrozenWeight,
    MovableWeight,
    is_conv1d,
)
from lorakit.base.offload import DISK, HOST, HostWeight, from_checkpoint, to_disk
from lorakit.base.packed_entry import PackedEntry
from lorakit.base.packing import layer_at, path_of, replace_layer
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.base.storages import storage
from lorakit.base.storages.dense import DenseWeight

NAME = "lorakit"


@dataclass(frozen=True)
class Destination:
    """Where the weight of one linear layer, or of one projection of experts, goes.

    Attributes:
        where: "device", "cpu" or "disk".
        file: to write it to, when it goes to disk.
        entry: the checkpoint tensor that already holds it as it is to be stored; None when none
            does.
    """

    where: str
    file: Path | None = None
    entry: TensorEntry | None = None


class PackedTensor:
    """Stands in for a packed weight of the checkpoint on its way through transformers' loader,
    which neither reads nor casts it: our operation does.
    """

    def __init__(self, entry: PackedEntry, dtype: torch.dtype, on_read: Callable[[], None]) -> None:
        self._entry = entry
        self._dtype = dtype
        self._on_read = on_read

    def __getitem__(self, index: Any) -> PackedTensor:
        return self

    def to(self, *args: Any, **kwargs: Any) -> PackedTensor:
        """Itself: bytes have no other dtype, and the operation knows the device."""
        return self

    def read(self) -> MovableWeight:
        """The storage over the bytes of the file."""
        stored = self._entry.read(self._dtype)
        self._on_read()
        return stored


class UnpackedTensor:
    """A packed weight of the checkpoint that transformers makes a part of a larger tensor, as it
    does with experts: dense once it is read.
    """

    def __init__(self, entry: PackedEntry, dtype: torch.dtype, on_read: Callable[[], None]) -> None:
        self._packed = PackedTensor(entry, dtype, on_read)
        self._shape = entry.shape

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._packed.read().dequantize()[index]

    def get_dtype(self) -> str:
        """safetensors' name of a floating dtype."""
        return "F32"

    def get_shape(self) -> list[int]:
        """Shape of the dense weight."""
        return list(self._shape)


class PackingConfig(QuantizationConfigMixin):
    """What the packing quantizer is told. transformers copies it, so it holds plain values.

    Attributes:
        destinations: {parameter name: destination} of the weights that are stored by us; all others
            are loaded the usual way.
        quantization, block_size, double_quantization: as for `load_base`.
        device: that computes; weights are packed there.
    """

    def __init__(
        self,
        destinations: dict[str, Destination],
        quantization: str,
        *,
        block_size: int,
        double_quantization: bool,
        device: torch.device,
    ) -> None:
        super().__init__(quant_method=cast(QuantizationMethod, NAME))  # a name of ours
        self.destinations = destinations
        self.quantization = quantization
        self.block_size = block_size
        self.double_quantization = double_quantization
        self.device = device

    def store(
        self, name: str, layer: nn.Module, weight: torch.Tensor | PackedTensor
    ) -> FrozenWeight:
        """The layer's weight (as the model holds it) in its storage, at its destination."""
        destination = self.destinations[name]
        if isinstance(weight, PackedTensor):
            return _put(weight.read(), destination, self.device)
        if self.quantization in ("none", CHECKPOINT):
            if destination.entry is not None:
                return from_checkpoint(weight, destination.entry, transposed=is_conv1d(layer))
            return _put(DenseWeight(_as_out_in(weight, layer)), destination, self.device)
        stored = storage(self.quantization).pack(
            _as_out_in(weight.to(self.device), layer),
            block_size=self.block_size,
            double_quantization=self.double_quantization,
        )
        return _put(stored, destination, self.device)


class PackingQuantizer(HfQuantizer):
    """Sends the weights that have a destination through `StoreWeight`, all others the usual way."""

    requires_calibration = False
    quantization_config: PackingConfig

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **_: Any) -> bool:
        return param_name in self.quantization_config.destinations

    def update_weight_conversions(
        self, weight_conversions: list[WeightTransform], model: PreTrainedModel
    ) -> list[WeightTransform]:
        return fused_loading.in_place(weight_conversions)

    def get_quantize_ops(self) -> ConversionOps:
        return StoreWeight(self.quantization_config)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        # From here on the model is a plain one: Trainer and `.to()` must not think otherwise.
        self.remove_quantization_config(model)
        fused_loading.leave(model)
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                vars(module.config).pop("_is_quantized", None)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class StoreWeight(ConversionOps):
    """The operation on one loaded tensor (or on the several that one tensor was split into)."""

    def __init__(self, config: PackingConfig) -> None:
        self._config = config

    def convert(  # type: ignore[override]  # transformers calls it by keyword
        self,
        input_dict: dict[str, Any],
        *,
        model: PreTrainedModel,
        missing_keys: set[str],
        **_: Any,
    ) -> dict[str, Any]:
        """Replace the layers of the target tensors; return what is left for the usual way."""
        left: dict[str, Any] = {}
        for name, value in input_dict.items():
            tensor = value[0] if isinstance(value, list) else value
            target = name in self._config.destinations
            # A wrong shape is reported by the usual way; of packed ones it is known to be right.
            if not isinstance(tensor, PackedTensor) and (
                not target or tensor.shape != model.get_parameter(name).shape
            ):
                left[name] = value
                continue
            path = path_of(model, name)
            replace_layer(model, path, self._config.store(name, layer_at(model, path), tensor))
            missing_keys.discard(name)
        return left


def register() -> None:
    """Add our quantizer to transformers' registry; of no effect the second time."""
    if NAME not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(NAME)(PackingQuantizer)


def _as_out_in(weight: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    return weight.t().contiguous() if is_conv1d(layer) else weight


def _put(stored: MovableWeight, destination: Destination, device: torch.device) -> FrozenWeight:
    if destination.where == DISK:
        assert destination.file is not None
        return to_disk(stored, destination.file)
    if destination.where == HOST:
        return HostWeight(stored.to("cpu"))
    return stored.to(device)
