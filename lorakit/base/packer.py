"""The tensors of a packed copy: what each of a checkpoint's becomes, made when it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from lorakit.base.bitsandbytes_format import stored_tensors
from lorakit.base.checkpoint import TensorEntry, read_tensor
from lorakit.base.code_values import is_near_codes
from lorakit.base.convertible import tensors_to_pack
from lorakit.base.dtypes import TORCH_DTYPES, cast
from lorakit.base.frozen_linear import FrozenWeight, is_conv1d
from lorakit.base.model_folder import (
    TensorGroup,
)
from lorakit.base.origin import origins_of
from lorakit.base.packed_entry import Packed
from lorakit.base.storages import storage
from lorakit.errors import InputError, ModelError

# What bitsandbytes can dequantize to; float64 is packed from float32.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class PackSettings:
    """How weights are packed.

    Attributes:
        quantization: "nf4", "fp4" or "int8".
        block_size, double_quantization, quant_storage: of 4-bit weights; see
            `storages/nf4.py`. `quant_storage` is the dtype that the codes are viewed as.
        dtype: that weights are packed from and others are written in; None: as stored.
    """

    quantization: str = "nf4"
    block_size: int = 64
    double_quantization: bool = True
    quant_storage: torch.dtype = torch.uint8
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Replacement:
    """A tensor that takes the place of a checkpoint's, or is added to it.

    Attributes:
        shape, dtype: of what is made; a weight is laid out as in the checkpoint.
        make: gives it when it is written.
    """

    shape: torch.Size
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One tensor to write.

    Attributes:
        layer: path of the linear layer whose packed weight it becomes; None: it stays as it is.
        transposed: laid out as (I, O), as in a `Conv1D`.
        dtype: that it is packed from, or written in.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]
    layer: str | None = None
    transposed: bool = False


class Packer:
    """Makes the tensors to write, and keeps what is to be known of the packed ones."""

    def __init__(self, settings: PackSettings) -> None:
        self._settings = settings
        self.errors: dict[str, float] = {}
        self.beside_codes: dict[str, float] = {}
        self.digests: dict[str, str] = {}

    def group(self, row: Row) -> TensorGroup:
        """What a row becomes: a tensor, or a packed weight with its companions."""
        if row.layer is None:
            num_bytes = row.shape.numel() * row.dtype.itemsize
            return TensorGroup(num_bytes, partial(self._as_it_is, row))
        meta = self._pack(torch.empty(row.shape, dtype=row.dtype, device="meta"))
        num_bytes = sum(t.numel() * t.element_size() for t in meta.tensors().values())
        return TensorGroup(num_bytes, partial(self._packed, row, row.layer))

    def _as_it_is(self, row: Row) -> dict[str, torch.Tensor]:
        return {row.name: cast(row.read(), row.dtype, row.name).contiguous()}

    @torch.no_grad()
    def _packed(self, row: Row, layer: str) -> dict[str, torch.Tensor]:
        weight = cast(row.read(), row.dtype, row.name)
        if row.transposed:
            weight = weight.t().contiguous()
        if not weight.isfinite().all():
            raise ModelError(
                f"the weight {row.name!r} has values that are not finite; possible to pack: finite "
                "weights. Repair the model."
            )
        try:
            packed = self._pack(weight)
        except InputError as error:  # the storage knows no names
            raise ModelError(f"{row.name!r} cannot be packed: {error}") from error
        self.errors[layer] = _relative_error(packed, weight)
        how = self._settings.quantization, self._settings.block_size
        if is_near_codes(self.errors[layer], *how):
            # Without the rounding of scales, which loses no change of the weights.
            exact = self._pack(weight, double_quantization=False)
            self.beside_codes[layer] = _relative_error(exact, weight)
        self.digests[layer] = digest_of(packed)
        return stored_tensors(row.name, packed, self._settings.quant_storage)

    def _pack(self, weight: torch.Tensor, *, double_quantization: bool | None = None) -> Packed:
        settings = self._settings
        double = settings.double_quantization
        packed = storage(settings.quantization).pack(
            weight,
            block_size=settings.block_size,
            double_quantization=double if double_quantization is None else double_quantization,
        )
        assert isinstance(packed, Packed)
        return packed


def rows_to_write(
    plain: PreTrainedModel,
    entries: dict[str, TensorEntry],
    settings: PackSettings,
    replaced: Mapping[str, Replacement],
) -> list[Row]:
    """All tensors to write, in the order of the checkpoint, added ones last."""
    layers = tensors_to_pack(plain, entries)
    # What the model has a tensor in: some stay float32 in every dtype of the model.
    dtypes = {name: tensor.dtype for name, tensor in plain.state_dict().items()}
    for parameter, parts in origins_of(plain, entries).items():
        dtypes |= {part.tensor: dtypes[parameter] for part in parts}
    rows = []
    for name in dict.fromkeys([*entries, *replaced]):
        if name in replaced:
            shape, dtype, read = replaced[name].shape, replaced[name].dtype, replaced[name].make
        else:
            shape, dtype = torch.Size(entries[name].shape), TORCH_DTYPES[entries[name].dtype]
            read = partial(read_tensor, entries[name])
        if settings.dtype is not None and dtype.is_floating_point:
            dtype = dtypes.get(name, settings.dtype)
        layer = layers.get(name)
        if layer is None:
            rows.append(Row(name, shape, dtype, read))
            continue
        dtype = dtype if dtype in DTYPES else torch.float32
        transposed = is_conv1d(plain.get_submodule(layer))
        rows.append(Row(name, shape, dtype, read, layer, transposed))
    return rows


def digest_of(packed: Packed) -> str:
    digest = hashlib.sha256(f"{type(packed).__name__} {tuple(packed.shape)}".encode())
    for name, tensor in packed.tensors().items():
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _relative_error(packed: FrozenWeight, weight: torch.Tensor) -> float:
    wide = weight.float()
    norm = float(torch.linalg.vector_norm(wide))
    error = float(torch.linalg.vector_norm(packed.dequantize(torch.float32) - wide))
    return error / norm if norm > 0 else error
