"""The options of verbs that write packed weights."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.errors import InputError

if TYPE_CHECKING:
    from lorakit.base.write_quantized import PackSettings


class Quantization(StrEnum):
    """How the linear weights are packed."""

    NF4 = "nf4"
    FP4 = "fp4"
    INT8 = "int8"


class QuantStorage(StrEnum):
    """The dtype that 4-bit codes are stored as; the bytes are the same."""

    UINT8 = "uint8"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Dtype(StrEnum):
    """The dtype that weights are packed from and the others are written in."""

    STORED = "stored"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


BlockSize = Annotated[
    int | None, typer.Option(help="Weights that share a scale in 4 bit.  [default: 64]")
]
DoubleQuantization = Annotated[
    bool | None,
    typer.Option(
        "--double-quantization/--no-double-quantization",
        help="Quantize the scales of 4-bit blocks as well.  [default: yes]",
    ),
]
QuantStorageOption = Annotated[
    QuantStorage | None,
    typer.Option(
        "--quant-storage",
        help="Dtype that 4-bit codes are stored as, for FSDP.  [default: uint8]",
    ),
]


def pack_settings(
    option: str,
    quantization: Quantization,
    block_size: int | None,
    double_quantization: bool | None,
    quant_storage: QuantStorage | None,
    dtype: Dtype = Dtype.STORED,
) -> PackSettings:
    """What the options say; None is the default.

    Args:
        option: that gave `quantization`, without dashes.

    Raises:
        InputError: an option that cannot take effect.
    """
    effectless = given_options(block_size, double_quantization, quant_storage)
    if quantization is Quantization.INT8 and effectless:
        raise InputError(
            f"--{effectless[0]} cannot take effect because --{option} is int8, whose scales "
            "are one per row; possible with nf4 and fp4. Remove it, or choose one of them."
        )
    import torch

    from lorakit.base.write_quantized import PackSettings

    return PackSettings(
        quantization.value,
        64 if block_size is None else block_size,
        double_quantization is not False,
        torch.uint8 if quant_storage is None else getattr(torch, quant_storage.value),
        None if dtype is Dtype.STORED else getattr(torch, dtype.value),
    )


def given_options(
    block_size: int | None, double_quantization: bool | None, quant_storage: QuantStorage | None
) -> list[str]:
    """Names of the options that were given, without dashes."""
    given = {
        "block-size": block_size,
        "double-quantization": double_quantization,
        "quant-storage": quant_storage,
    }
    return [name for name, value in given.items() if value is not None]
