"""`lorakit quantize`: a model as a smaller folder that transformers and bitsandbytes load."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.output import AsJson, console, human_bytes, print_json, stdout_for_results
from lorakit.errors import InputError

if TYPE_CHECKING:
    from lorakit.base.write_quantized import PackReport, PackSettings


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


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, a hub id, or `builtin`.")
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to write; it must not hold anything.")
    ],
    quantization: Annotated[
        Quantization, typer.Option(help="How linear weights are packed.")
    ] = Quantization.NF4,
    block_size: Annotated[
        int | None, typer.Option(help="Weights that share a scale in 4 bit.  [default: 64]")
    ] = None,
    double_quantization: Annotated[
        bool | None,
        typer.Option(
            "--double-quantization/--no-double-quantization",
            help="Quantize the scales of 4-bit blocks as well.  [default: yes]",
        ),
    ] = None,
    quant_storage: Annotated[
        QuantStorage | None,
        typer.Option(help="Dtype that 4-bit codes are stored as, for FSDP.  [default: uint8]"),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="To pack from, and of what is not packed.")
    ] = Dtype.STORED,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a quantized copy of a model as bitsandbytes packs it, and read it back.

    Output head, embeddings, expert routers and fused experts stay as they are. A recipe takes the
    folder as `base.model` with `base.quantization: checkpoint`.

    \b
    Example:
      lorakit quantize Qwen/Qwen3-0.6B --output qwen3-nf4
      lorakit quantize my-model --output my-model-int8 --quantization int8 --dtype bfloat16
    """
    given: dict[str, object] = {
        "block-size": block_size,
        "double-quantization": double_quantization,
        "quant-storage": quant_storage,
    }
    _refuse_effectless(quantization, given)
    with stdout_for_results():
        from lorakit.base.write_quantized import quantize_folder

        settings = _settings(quantization, block_size, double_quantization, quant_storage, dtype)
        report = quantize_folder(model, output, settings, revision=revision)
    if as_json:
        print_json(_values(report, output, settings))
    else:
        show_quantized(report, output, settings)


def show_quantized(report: PackReport, output: Path, settings: PackSettings) -> None:
    """What was written, in words."""
    out = console()
    before, after = report.bytes_before, report.bytes_after
    out.print(
        f"wrote {output}: {human_bytes(before)} before, {human_bytes(after)} after "
        f"({after / before:.0%}); read back equal"
    )
    worst = max(report.errors, key=report.errors.__getitem__)
    out.print(
        f"{len(report.errors)} layers in {settings.quantization}, mean relative error "
        f"{report.mean_error:.2%}, largest {report.errors[worst]:.2%} ({worst})"
    )
    reasons: dict[str, list[str]] = {}
    for path, reason in report.left.items():
        reasons.setdefault(reason, []).append(path)
    for reason, paths in reasons.items():
        shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
        out.print(f"not packed: {shown} ({len(paths)} in all), {reason}")


def _settings(
    quantization: Quantization,
    block_size: int | None,
    double_quantization: bool | None,
    quant_storage: QuantStorage | None,
    dtype: Dtype,
) -> PackSettings:
    import torch

    from lorakit.base.write_quantized import PackSettings

    return PackSettings(
        quantization.value,
        64 if block_size is None else block_size,
        double_quantization is not False,
        torch.uint8 if quant_storage is None else getattr(torch, quant_storage.value),
        None if dtype is Dtype.STORED else getattr(torch, dtype.value),
    )


def _refuse_effectless(quantization: Quantization, given: dict[str, object]) -> None:
    effectless = [name for name, value in given.items() if value is not None]
    if quantization is Quantization.INT8 and effectless:
        raise InputError(
            f"--{effectless[0]} cannot take effect because --quantization is int8, whose scales "
            "are one per row; possible with nf4 and fp4. Remove it, or choose one of them."
        )


def _values(report: PackReport, output: Path, settings: PackSettings) -> dict[str, Any]:
    return {
        "output": str(output),
        "quantization": settings.quantization,
        "bytes": {"before": report.bytes_before, "after": report.bytes_after},
        "layers": {"packed": len(report.errors), "left": len(report.left)},
        "relative_error": {
            "mean": report.mean_error,
            "by_layer": dict(sorted(report.errors.items())),
        },
        "left": report.left,
    }
