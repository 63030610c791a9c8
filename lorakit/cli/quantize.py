"""`lorakit quantize`: a model as a smaller folder that transformers and bitsandbytes load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.output import AsJson, console, print_json, stdout_for_results
from lorakit.cli.pack_options import (
    BlockSize,
    DoubleQuantization,
    Dtype,
    Quantization,
    QuantStorageOption,
    pack_settings,
)
from lorakit.sizes import size

if TYPE_CHECKING:
    from lorakit.base.write_quantized import PackReport, PackSettings


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
    block_size: BlockSize = None,
    double_quantization: DoubleQuantization = None,
    quant_storage: QuantStorageOption = None,
    dtype: Annotated[
        Dtype, typer.Option(help="To pack from, and of what is not packed.")
    ] = Dtype.STORED,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    allow_lost_adapter: Annotated[
        bool,
        typer.Option(
            "--allow-lost-adapter",
            help="Pack an adapter merged into a packed base too, although packing rounds it away.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a quantized copy of a model as bitsandbytes packs it.

    It is read back before it appears. Output head, embeddings, expert routers and fused experts
    stay as they are. A recipe takes the folder as `base.model` with
    `base.quantization: checkpoint`.

    \b
    Example:
      lorakit quantize Qwen/Qwen3-0.6B --output qwen3-nf4
      lorakit quantize my-model --output my-model-int8 --quantization int8 --dtype bfloat16
    """
    with stdout_for_results():
        settings = pack_settings(
            "quantization", quantization, block_size, double_quantization, quant_storage, dtype
        )
        from lorakit.base.write_quantized import quantize_folder

        report = quantize_folder(
            model, output, settings, revision=revision, allow_lost_adapter=allow_lost_adapter
        )
    if as_json:
        print_json(_values(report, output, settings))
    else:
        show_quantized(report, output, settings)


def show_quantized(report: PackReport, output: Path, settings: PackSettings) -> None:
    """What was written, in words."""
    out = console()
    before, after = report.bytes_before, report.bytes_after
    out.print(
        f"wrote {output}: {size(before)} before, {size(after)} after "
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
