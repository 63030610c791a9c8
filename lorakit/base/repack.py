"""Original weights of a loaded base, and other weights stored in their place, in the same way."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear, FrozenWeight, MovableWeight
from lorakit.base.info import base_info
from lorakit.base.offload import DiskWeight, HostWeight, storage_of, to_disk
from lorakit.base.origin import Origin, origins
from lorakit.base.storages import storage
from lorakit.base.storages.dense import DenseWeight
from lorakit.errors import ModelError


def is_packed(module: nn.Module) -> bool:
    """Whether a layer's weight is stored in another form than a dense tensor."""
    return isinstance(module, FrozenLinear | FrozenExperts) and not isinstance(
        storage_of(module.stored), DenseWeight
    )


class Repacker:
    """Reads the weights that a base's layers were packed from, and packs others as they are.

    Args:
        model: the base.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._origins: dict[str, tuple[Origin, ...]] | None = None
        self._spill: Path | None = None

    def original(self, name: str, layer: FrozenLinear) -> torch.Tensor:
        """The weight (O, I) that the layer was packed from, in its dtype, where the base computes.

        A dense layer's own weight is its original.

        Raises:
            ModelError: the layer is packed, and the checkpoint it was packed from is gone, holds
                packed weights itself, or makes the weight out of several tensors.
        """
        device = self._model.device
        if not is_packed(layer):
            return layer.stored.dequantize(device=device)
        if device.type == "meta":
            return torch.empty(layer.stored.shape, dtype=layer.stored.dtype, device=device)
        return self.reread(name, layer)

    def reread(self, name: str, layer: FrozenLinear) -> torch.Tensor:
        """As `original`, from the checkpoint for a dense layer too.

        Raises:
            ModelError: as in `original`.
        """
        weight = self._read(name)
        weight = weight.t() if layer.fan_in_fan_out else weight
        if weight.shape != layer.stored.shape or not weight.is_floating_point():
            raise ModelError(
                f"the checkpoint holds {name!r} as {weight.dtype} {tuple(weight.shape)}, already "
                "quantized: its original weights are gone. Possible: a base in 16 or 32 bit, "
                "quantized when it is loaded (base.quantization nf4). Load that one, or choose an "
                "init that leaves the base alone (true, gaussian)."
            )
        return weight.to(self._model.device, layer.stored.dtype).contiguous()

    def pack(self, layer: FrozenLinear, weight: torch.Tensor) -> MovableWeight:
        """`weight` (O, I) as the layer stores it, where `weight` is: not yet in the layer's place.

        Raises:
            ModelError: nothing is known of how the layer was packed.
        """
        kept = storage_of(layer.stored)
        if isinstance(kept, DenseWeight):
            dense = weight.t().contiguous() if kept.transposed else weight
            return DenseWeight(dense, transposed=kept.transposed)
        if weight.device.type == "meta":
            return kept  # shapes are all there is
        info = base_info(self._model)
        return storage(info.quantization).pack(
            weight, block_size=info.block_size, double_quantization=info.double_quantization
        )

    def placed(self, name: str, layer: FrozenLinear, stored: MovableWeight) -> FrozenWeight:
        """`stored` where the layer's present weight lies: device, host memory or disk."""
        if isinstance(layer.stored, HostWeight):
            return HostWeight(stored.to("cpu"))
        if isinstance(layer.stored, DiskWeight):
            return to_disk(stored.to("cpu"), self._folder() / f"{name}.safetensors")
        return stored

    def _read(self, name: str) -> torch.Tensor:
        try:
            if self._origins is None:
                self._origins = origins(self._model)
            found = self._origins.get(f"{name}.weight", ())
            if len(found) == 1 and not found[0].converted:
                return found[0].read()
        except (ModelError, OSError, SafetensorError) as error:
            raise ModelError(
                f"the original weight of {name!r} cannot be read again: {error} Possible: the "
                "checkpoint stays where the base was loaded from. Restore it, or choose an init "
                "that leaves the base alone (true, gaussian)."
            ) from error
        raise ModelError(
            f"the original weight of {name!r} is made of {len(found)} tensors of the checkpoint, "
            "converted when it is loaded; possible: weights stored as they are. Leave the layer "
            "out (adapter.exclude_modules), or choose an init that leaves the base alone."
        )

    def _folder(self) -> Path:
        """A folder for weights on disk that lives as long as the model does."""
        if self._spill is None:
            made = tempfile.TemporaryDirectory(prefix="lorakit-")
            weakref.finalize(self._model, made.cleanup)
            self._spill = Path(made.name)
        return self._spill
