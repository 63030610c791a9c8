"""`lorakit merge`: a run's base and adapter as one plain transformers folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.output import AsJson, RunFolder, console, print_json, stdout_for_results
from lorakit.cli.pack_options import (
    BlockSize,
    DoubleQuantization,
    Dtype,
    Quantization,
    QuantStorage,
    QuantStorageOption,
    given_options,
    pack_settings,
)
from lorakit.errors import InputError

if TYPE_CHECKING:
    from lorakit.base.write_quantized import PackSettings
    from lorakit.ship.merge_folder import MergeReport
    from lorakit.ship.weight_change import WeightChange


class Into(StrEnum):
    """The weights that the adapter is merged into."""

    DEQUANTIZED = "dequantized"
    ORIGINAL = "original"


def command(
    run: RunFolder,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to write; it must not hold anything.")
    ],
    into: Annotated[
        Into | None,
        typer.Option(
            help="dequantized: the very weights the adapter was trained on; original: those of the "
            "checkpoint, the difference is measured and shown.  [default: dequantized; original "
            "with --quantize]"
        ),
    ] = None,
    quantize: Annotated[
        Quantization | None,
        typer.Option(help="Pack the merged weights once, as bitsandbytes does."),
    ] = None,
    block_size: BlockSize = None,
    double_quantization: DoubleQuantization = None,
    quant_storage: QuantStorageOption = None,
    original: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The unquantized model, where the run's base is a quantized checkpoint.",
        ),
    ] = None,
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Of the written weights, or to pack them from; stored: as in the base's files."
        ),
    ] = Dtype.STORED,
    as_json: AsJson = False,
) -> None:
    """Write a run's base and adapter as a plain transformers folder.

    Its logits are verified.

    \b
    Example:
      lorakit merge runs/recipe --output merged
      lorakit merge runs/recipe --output merged --into original --dtype bfloat16
      lorakit merge runs/recipe --output merged-nf4 --quantize nf4
    """
    with stdout_for_results():
        settings = _settings(quantize, block_size, double_quantization, quant_storage)
        report = merge_run(
            run, output, into=into, quantize=settings, original=original, dtype=dtype
        )
    if as_json:
        print_json(_values(report))
    else:
        show_merge(report)


def merge_run(
    run: Path,
    output: Path,
    *,
    into: Into | None = None,
    quantize: PackSettings | None = None,
    original: str | None = None,
    dtype: Dtype = Dtype.STORED,
) -> MergeReport:
    """`merge_folder` with what a run's recipe says of its base."""
    import torch

    from lorakit.base.of_run import base_of_run
    from lorakit.run_folder import dtype_of, finished_run
    from lorakit.ship.merge_folder import merge_folder

    folder, recipe = finished_run(run)
    base = base_of_run(folder, recipe)
    return merge_folder(
        base.model,
        folder.adapter,
        output,
        into=None if into is None else into.value,
        quantize=quantize,
        original=original,
        quantization=base.quantization,
        double_quantization=base.double_quantization,
        block_size=base.block_size,
        dtype=None if dtype is Dtype.STORED else getattr(torch, dtype.value),
        base_dtype=getattr(torch, dtype_of(folder)),
        revision=base.revision,
        tokenizer=folder.tokenizer,
    )


def show_merge(report: MergeReport) -> None:
    """What was written and how it was verified, in words."""
    out = console()
    changed = f"{report.num_changed} of {report.num_tensors} tensors changed"
    packed = "" if report.quantize is None else f", packed in {report.quantize}"
    out.print(f"wrote {report.output}, {changed}{packed}; verified:", markup=False)
    if report.weights is not None:
        _show_weights(report, report.weights)
    out.print(str(report.verification), markup=False)
    if report.unties:
        out.print(
            "output head and input embedding were one weight; the adapter changes one of them, so "
            "they are two now (tie_word_embeddings: false)",
            markup=False,
        )
    if report.codes is not None:
        original = " --original MODEL" if report.base_quantization == "checkpoint" else ""
        out.print(
            f"these weights lie on the values of {report.codes} codes: packed again they would "
            "lose the adapter, and lorakit quantize refuses them. For a packed model: lorakit "
            f"merge --quantize {report.codes}{original}",
            markup=False,
        )


def _show_weights(report: MergeReport, weights: WeightChange) -> None:
    out, total = console(), weights.total
    if report.into == Into.ORIGINAL and report.base_quantization != "none":
        out.print(
            "merged into the original weights; the adapter was trained on those in "
            f"{report.base_quantization}, and may have learned to correct their error",
            markup=False,
        )
    if report.init is not None and report.into == Into.ORIGINAL:
        out.print(
            f"init {report.init}: what went into them is what training changed since the start",
            markup=False,
        )
    out.print(str(weights), markup=False)
    worst = weights.worst_retained
    if worst is None:
        out.print("the adapter changes no weight", markup=False)
        return
    out.print(
        f"training changed them by {total.relative_change:.2%}: {total.retained:.2%} of that is "
        f"in what was written (standard error {total.standard_error:.2%}; worst layer "
        f"{worst[0]}: {worst[1]:.2%}), beside a rounding noise of {total.relative_noise:.2%}",
        markup=False,
    )


def _settings(
    quantize: Quantization | None,
    block_size: int | None,
    double_quantization: bool | None,
    quant_storage: QuantStorage | None,
) -> PackSettings | None:
    if quantize is not None:
        return pack_settings("quantize", quantize, block_size, double_quantization, quant_storage)
    effectless = given_options(block_size, double_quantization, quant_storage)
    if effectless:
        raise InputError(
            f"--{effectless[0]} cannot take effect in a merge that packs nothing; possible with "
            "--quantize nf4 or fp4. Add that, or remove it."
        )
    return None


def _values(report: MergeReport) -> dict[str, Any]:
    logits = report.verification
    return {
        "output": str(report.output),
        "into": report.into,
        "quantize": report.quantize,
        "tensors": {"written": report.num_tensors, "changed": report.num_changed},
        "weight_error": report.weight_error,
        "weights": None if report.weights is None else _weight_values(report.weights),
        "unties": report.unties,
        "codes": report.codes,
        "logits": {"error": logits.error, "bound": logits.bound, "effect": logits.effect},
    }


def _weight_values(weights: WeightChange) -> dict[str, Any]:
    total, worst = weights.total, weights.worst_retained
    return {
        "difference": total.relative_difference,
        "change": total.relative_change,
        "retained": total.retained,
        "retained_standard_error": total.standard_error,
        "retained_worst": None if worst is None else {"parameter": worst[0], "part": worst[1]},
        "noise": total.relative_noise,
        "by_parameter": {
            name: {
                "difference": layer.relative_difference,
                "change": layer.relative_change,
                "retained": layer.retained,
                "noise": layer.relative_noise,
            }
            for name, layer in sorted(weights.layers.items())
        },
    }
