"""A quantized checkpoint in the terms of a model: which layers its packed weights belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.base import packing
from lorakit.base.bitsandbytes_format import read_weights
from lorakit.base.checkpoint import TensorEntry
from lorakit.base.convertible import convertible_linears
from lorakit.base.frozen_linear import is_conv1d, is_linear, linear_at
from lorakit.base.origin import Origin, origins_of
from lorakit.base.packed_entry import PackedEntry
from lorakit.base.quantization_config import quantization_of
from lorakit.base.storages import storage
from lorakit.errors import ModelError


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of a checkpoint and what they are in the model.

    Attributes:
        entries: tensors that are no part of a packed weight, by name.
        packed: packed weights by the name of their tensor.
        origins: {parameter: the tensors it is made of}.
        layers: {path of a linear layer: its packed weight}.
    """

    entries: dict[str, TensorEntry]
    packed: dict[str, PackedEntry]
    origins: dict[str, tuple[Origin, ...]]
    layers: dict[str, PackedEntry]

    @property
    def num_weights(self) -> int:
        """Elements of all tensors, packed ones unpacked."""
        dense = sum(torch.Size(entry.shape).numel() for entry in self.entries.values())
        return dense + sum(entry.shape.numel() for entry in self.packed.values())


def stored_weights(folder: Path, plain: PreTrainedModel, *, is_packed: bool) -> StoredWeights:
    """Find the place of every tensor of a folder.

    Args:
        folder: with the safetensors files.
        plain: the model on the meta device, nothing packed.
        is_packed: whether to look for packed weights.

    Raises:
        ModelError: broken files, packed weights that do not fit the model, or none of them.
    """
    entries, packed = read_weights(folder, is_packed=is_packed)
    origins = origins_of(plain, entries, packed)
    return StoredWeights(entries, packed, origins, _packed_layers(plain, origins, packed))


def pack_as_stored(
    plain: PreTrainedModel, layers: dict[str, PackedEntry], dtype: torch.dtype
) -> PreTrainedModel:
    """Put the storages of the checkpoint, without data, into a model on the meta device."""
    for path, entry in layers.items():
        packing.replace_layer(plain, path, entry.empty(dtype))
    return plain.requires_grad_(False).eval()


def empty_as_configured(
    plain: PreTrainedModel, quantization_config: dict[str, Any], dtype: torch.dtype
) -> PreTrainedModel:
    """As `pack_as_stored` for weights that are not here: in the storages that transformers would
    have written for the (checked) config.
    """
    chosen = storage(quantization_of(quantization_config))
    for path in convertible_linears(plain, quantization_config["llm_int8_skip_modules"]):
        packed = chosen.pack(
            packing.storable_weight(linear_at(plain, path)).to(dtype),
            block_size=64,  # the one that transformers has no option to change
            double_quantization=quantization_config["bnb_4bit_use_double_quant"],
        )
        packing.replace_layer(plain, path, packed)
    return plain.requires_grad_(False).eval()


def _packed_layers(
    plain: PreTrainedModel,
    origins: dict[str, tuple[Origin, ...]],
    packed: dict[str, PackedEntry],
) -> dict[str, PackedEntry]:
    layers = {}
    for parameter, parts in origins.items():
        entry = packed.get(parts[0].tensor)
        if entry is None or parts[0].converted:
            continue  # what is converted, such as fused experts, is dense in the model
        path, _dot, name = parameter.rpartition(".")
        layer = plain.get_submodule(path)
        tied = plain.all_tied_weights_keys
        if name != "weight" or not is_linear(layer) or parameter in {*tied, *tied.values()}:
            raise ModelError(
                f"the packed weight {entry.weight.name!r} in {str(entry.weight.file)!r} belongs to "
                f"{path!r}, a {type(layer).__name__}; possible: packed linear layers that share no "
                "weight. Quantize the original model with `lorakit quantize`."
            )
        _check_shape(path, layer, entry)
        layers[path] = entry
    return layers


def _check_shape(path: str, layer: nn.Module, entry: PackedEntry) -> None:
    shape = layer.get_parameter("weight").shape
    if is_conv1d(layer):
        shape = shape[::-1]
    if entry.shape != shape:
        raise ModelError(
            f"the packed weight {entry.weight.name!r} in {str(entry.weight.file)!r} has the shape "
            f"{tuple(entry.shape)}, but {path!r} needs {tuple(shape)}; possible: weights that "
            "belong to their config.json. Download the model again."
        )
