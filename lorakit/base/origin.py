"""Where each weight of a loaded model came from: file, tensor name, hash.

What needs the original weight after quantization (LoftQ, PiSSA, a merge into the original) reads it
again from here.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from lorakit.base.bitsandbytes_format import read_weights
from lorakit.base.checkpoint import TensorEntry
from lorakit.base.config import read_config
from lorakit.base.info import base_info
from lorakit.base.meta_model import plain_model
from lorakit.base.packed_entry import PackedEntry
from lorakit.base.quantization_config import KEY


@dataclass(frozen=True)
class Origin:
    """One checkpoint tensor that a parameter was made from.

    Attributes:
        file: the safetensors file.
        tensor: its name there.
        converted: the parameter is not this tensor but computed from it (and maybe others), as for
            fused experts.
        packed: what a tensor with packed codes stands for.
    """

    file: Path
    tensor: str
    converted: bool
    packed: PackedEntry | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensor's name alone; a `Fusion` has several."""
        return (self.tensor,)

    def read(self) -> torch.Tensor:
        """The tensor as stored: of a packed weight the codes."""
        with safe_open(self.file, framework="pt", backend="pread") as file:
            return file.get_tensor(self.tensor)

    def dense(self) -> torch.Tensor:
        """The tensor as stored, a packed weight dequantized: (O, I) in float32."""
        if self.packed is None:
            return self.read()
        return self.packed.read(torch.float32).dequantize()

    def sha256(self) -> str:
        """SHA-256 (hex) of the tensor's bytes."""
        data = self.read().contiguous().view(-1).view(torch.uint8)
        return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def origins(model: PreTrainedModel | str | Path) -> dict[str, tuple[Origin, ...]]:
    """The checkpoint tensors behind each parameter.

    Args:
        model: loaded by `load_base`, or a model folder.

    Returns:
        {parameter name in the plain transformers model, such as
        `model.layers.0.self_attn.q_proj.weight`: its origins}; several where transformers fuses
        tensors.

    Raises:
        ModelError: the model was not loaded by `load_base`, or its files are gone or broken.
    """
    folder = base_info(model).folder if isinstance(model, PreTrainedModel) else Path(model)
    values = read_config(folder / "config.json")
    return origins_of(plain_model(folder), *read_weights(folder, is_packed=KEY in values))


def origins_of(
    plain: PreTrainedModel,
    entries: dict[str, TensorEntry],
    packed: dict[str, PackedEntry] | None = None,
) -> dict[str, tuple[Origin, ...]]:
    """As `origins`, for the plain model on the meta device and the checkpoint's tensors.

    Args:
        entries: tensors that are no part of a packed weight.
        packed: packed weights by the name of their tensor.
    """
    packed = packed or {}
    mapping = get_model_conversion_mapping(plain)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state = plain.state_dict()
    found: dict[str, list[Origin]] = defaultdict(list)
    weights = {name: entry.weight for name, entry in packed.items()}
    for name, entry in (entries | weights).items():
        target, converted_by = rename_source_key(
            name, renamings, converters, plain.base_model_prefix, state
        )
        if target not in state and name in state:
            target, converted_by = name, None
        for each in _all_targets(target, converted_by, converters):
            converted = converted_by is not None
            found[each].append(Origin(entry.file, name, converted, packed.get(name)))
    return {name: tuple(parts) for name, parts in found.items() if name in state}


def _all_targets(
    target: str, converted_by: str | None, converters: list[WeightConverter]
) -> list[str]:
    """The names of all parameters that a conversion makes; transformers names the first."""
    for converter in converters:
        if converted_by is not None and converted_by in converter.source_patterns:
            first = converter.target_patterns[0]
            return [target.replace(first, pattern) for pattern in converter.target_patterns]
    return [target]
