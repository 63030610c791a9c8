"""A model of a checked config on the meta device: the modules, dtypes and bytes of a load."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from lorakit.base import attention, packing
from lorakit.base.config import model_config, read_config
from lorakit.base.families import model_class_of
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear, FrozenWeight
from lorakit.base.storages import Storage, dense, storage
from lorakit.errors import ModelError


def empty_model(
    config: PreTrainedConfig,
    *,
    quantization: str = "none",
    double_quantization: bool = True,
    block_size: int = 64,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """Build a model without weights, its linear weights in the storage they are packed to.

    Args:
        config: checked; see `config.model_config`.
        quantization: a name of `base/storages`.
        double_quantization, block_size: of 4-bit storages.
        dtype: of dense weights.

    Returns:
        The frozen model on the meta device, in eval mode.

    Raises:
        ModelError: an unknown storage, or a config that no model can be built from.
    """
    chosen = storage(quantization)
    attention.register()
    model_class = model_class_of(config)
    try:
        with torch.device("meta"):
            # transformers' own constructor: it sets dtype and attention as from_pretrained does.
            model = model_class._from_config(
                config, dtype=dtype, attn_implementation=config._attn_implementation
            )
    # Model code meets values that config classes let pass, with exceptions of every kind.
    except Exception as error:
        raise ModelError(
            f"a {config.model_type!r} model cannot be built from its config.json "
            f"({type(error).__name__}: {error}); possible: the values of a released model of this "
            "type. Compare config.json with one."
        ) from error
    model.to("meta")  # some architectures name a device for a buffer
    _keep_dtypes(model, dtype)
    if quantization != "none":
        for path in packing.packable(model):
            packed = chosen.pack(
                packing.storable_weight(packing.layer_at(model, path)),
                block_size=block_size,
                double_quantization=double_quantization,
            )
            packing.replace_layer(model, path, packed)
    return model.requires_grad_(False).eval()


def frozen_layers(model: PreTrainedModel) -> dict[str, FrozenLinear | FrozenExperts]:
    """{path: what has a weight that is stored packed, or may be}, each a frozen one of ours now.

    Args:
        model: on the meta device, before an adapter is attached.
    """
    found: dict[str, FrozenLinear | FrozenExperts] = {}
    for path in packing.packable(model):
        # As in loading: a dense weight can be offloaded too, once it is a frozen one of ours.
        if not packing.is_frozen(model, path):
            packing.replace_layer(model, path, packing.stored_at(model, path))
        layer = packing.layer_at(model, path)
        assert isinstance(layer, FrozenLinear | FrozenExperts)
        found[path] = layer
    return found


def stored_otherwise(
    layer: FrozenLinear | FrozenExperts,
    stored: FrozenWeight,
    chosen: Storage,
    *,
    block_size: int,
    double_quantization: bool,
) -> FrozenWeight:
    """Another storage of a weight without data, as `empty_model` would give it to the layer.

    Args:
        layer: that has the weight.
        stored: the weight, in any storage.
        chosen: see `base/storages`.
        block_size, double_quantization: of 4-bit storages.
    """
    weight = torch.empty(stored.shape, dtype=stored.dtype, device="meta")
    if chosen.QUANTIZATION == dense.QUANTIZATION:
        # Where GPT-2's layers have it transposed, it is.
        is_transposed = isinstance(layer, FrozenLinear) and layer.fan_in_fan_out
        as_held = weight.t().contiguous() if is_transposed else weight
        return dense.DenseWeight(as_held, transposed=is_transposed)
    return chosen.pack(weight, block_size=block_size, double_quantization=double_quantization)


def plain_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a folder with nothing packed, however its weights are stored.

    Raises:
        ModelError: config.json is missing, refused or broken.
    """
    return empty_model(model_config(read_config(folder / "config.json")), dtype=dtype)


def _keep_dtypes(model: PreTrainedModel, dtype: torch.dtype) -> None:
    # The few tensors that an architecture keeps in float32, as from_pretrained would.
    for pattern, kept in model._get_dtype_plan(dtype).items():
        expression = re.compile(pattern.replace("*", ".*"))
        for name, tensor in model.state_dict(keep_vars=True).items():
            if expression.search(name):
                tensor.data = tensor.data.to(kept)
