"""Packing a model's linear weights while transformers loads them, one tensor at a time.

transformers hands each tensor, as it is read, to the operation of an `HfQuantizer`. Ours puts the
weight into a storage, replaces the layer by a `FrozenLinear` over it and lets the tensor go, so the
peak is the packed model plus one tensor. Registered in transformers' official registry, under our
own name, at the first load.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.storages import storage

NAME = "lorakit"


class PackingConfig(QuantizationConfigMixin):
    """What the packing quantizer is told. transformers copies it, so it holds plain values."""

    def __init__(self, quantization: str, *, block_size: int, double_quantization: bool) -> None:
        super().__init__(quant_method=NAME)
        self.quantization = quantization
        self.block_size = block_size
        self.double_quantization = double_quantization

    def pack(self, weight: torch.Tensor, *, transposed: bool) -> nn.Module:
        """Store a linear layer's weight; `transposed` when it is (I, O)."""
        weight_OI = weight.t().contiguous() if transposed else weight
        return storage(self.quantization).pack(
            weight_OI, block_size=self.block_size, double_quantization=self.double_quantization
        )


class PackingQuantizer(HfQuantizer):
    """Sends the weights of linear layers through `PackWeight`, all others the usual way."""

    requires_calibration = False
    quantization_config: PackingConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        self._targets = {f"{name}.weight" for name in packable_linears(model)}

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **_: Any) -> bool:
        return param_name in self._targets

    def get_quantize_ops(self) -> ConversionOps:
        return PackWeight(self.quantization_config, self._targets)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        # From here on the model is a plain one: Trainer and `.to()` must not think otherwise.
        self.remove_quantization_config(model)
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                vars(module.config).pop("_is_quantized", None)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class PackWeight(ConversionOps):
    """The operation on one loaded tensor (or on the several that one tensor was split into)."""

    def __init__(self, config: PackingConfig, targets: set[str]) -> None:
        self._config = config
        self._targets = targets

    def convert(
        self,
        input_dict: dict[str, Any],
        model: PreTrainedModel | None = None,
        missing_keys: set[str] | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Replace the layers of the target tensors; return what is left for the usual way."""
        left: dict[str, Any] = {}
        for name, value in input_dict.items():
            tensor = value[0] if isinstance(value, list) else value
            path = name.removesuffix(".weight")
            layer = model.get_submodule(path)
            if name not in self._targets or tensor.shape != layer.weight.shape:
                left[name] = value  # a wrong shape is reported by the usual way
                continue
            transposed = isinstance(layer, Conv1D)
            stored = self._config.pack(tensor, transposed=transposed)
            replace_layer(model, path, stored)
            missing_keys.discard(name)
        return left


def register() -> None:
    """Add our quantizer to transformers' registry; of no effect the second time."""
    if NAME not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(NAME)(PackingQuantizer)


def packable_linears(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that are stored packed: all but the output head.

    Routers of mixture-of-experts models are not among them where transformers computes them with
    their own parameter; where they are plain linear layers they are left dense by name, because
    choosing experts from rounded scores changes which weights are used at all.
    """
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, Conv1D) and module is not head and not is_router(name)
    ]


def is_router(name: str) -> bool:
    """Whether a module's name says that it chooses experts."""
    last = name.rpartition(".")[2]
    return last in ("router", "gate", "shared_expert_gate") or ".router." in f".{name}."


def replace_layer(model: nn.Module, path: str, stored: nn.Module) -> None:
    """Put a `FrozenLinear` over `stored` in the place of the linear layer at `path`."""
    parent_path, _, name = path.rpartition(".")
    layer = model.get_submodule(path)
    frozen = FrozenLinear(stored, layer.bias, fan_in_fan_out=isinstance(layer, Conv1D))
    # transformers initializes what lacks this mark after loading.
    frozen._is_hf_initialized = stored._is_hf_initialized = True
    setattr(model.get_submodule(parent_path), name, frozen)
