"""`lorakit merge`: a run's base and adapter as one plain transformers folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.output import AsJson, RunFolder, console, print_json, stdout_for_results

if TYPE_CHECKING:
    from lorakit.ship.merge_folder import MergeReport


class Into(StrEnum):
    """The weights that the adapter is merged into."""

    DEQUANTIZED = "dequantized"
    ORIGINAL = "original"


class Dtype(StrEnum):
    """The dtype of the written weights."""

    STORED = "stored"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def command(
    run: RunFolder,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to write; it must not hold anything.")
    ],
    into: Annotated[
        Into,
        typer.Option(
            help="dequantized: the very weights the adapter was trained on; "
            "original: those of the checkpoint, the difference is measured and shown."
        ),
    ] = Into.DEQUANTIZED,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the written weights; stored: as in the base's files.")
    ] = Dtype.STORED,
    as_json: AsJson = False,
) -> None:
    """Write a run's base and adapter as a plain transformers folder, and verify its logits.

    \b
    Example:
      lorakit merge runs/recipe --output merged
      lorakit merge runs/recipe --output merged --into original --dtype bfloat16
    """
    with stdout_for_results():
        report = merge_run(run, output, into=into, dtype=dtype)
    if as_json:
        print_json(_values(report))
    else:
        show_merge(report)


def merge_run(
    run: Path, output: Path, *, into: Into = Into.DEQUANTIZED, dtype: Dtype = Dtype.STORED
) -> MergeReport:
    """`merge_folder` with what a run's recipe says of its base."""
    import torch

    from lorakit.run_folder import dtype_of, finished_run
    from lorakit.ship.merge_folder import merge_folder

    folder, recipe = finished_run(run)
    base = recipe.base
    return merge_folder(
        base.model,
        folder.adapter,
        output,
        into=into.value,
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
    out.print(f"wrote {report.output}, {changed}; verified:", markup=False)
    out.print(str(report.verification), markup=False)
    if report.unties:
        out.print(
            "output head and input embedding were one weight; the adapter changes one of them, so "
            "they are two now (tie_word_embeddings: false)",
            markup=False,
        )


def _values(report: MergeReport) -> dict[str, Any]:
    logits = report.verification
    return {
        "output": str(report.output),
        "into": report.into,
        "tensors": {"written": report.num_tensors, "changed": report.num_changed},
        "weight_error": report.weight_error,
        "unties": report.unties,
        "logits": {"error": logits.error, "bound": logits.bound, "effect": logits.effect},
    }
