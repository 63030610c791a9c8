"""`lorakit adapter`: what a saved adapter is, the same in another form, several as one."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.adapter.words import show_info, show_written
from lorakit.cli.output import AsJson, print_json, stdout_for_results
from lorakit.errors import InputError

if TYPE_CHECKING:
    import torch

    from lorakit.adapters.arithmetic.dora import Base
    from lorakit.adapters.arithmetic.write import Written


class Form(StrEnum):
    """What an adapter is converted to."""

    LORA = "lora"
    RSLORA = "rslora"


class Method(StrEnum):
    """How adapters are combined."""

    ADD = "add"
    INTERPOLATE = "interpolate"
    CONCATENATE = "concatenate"


class FactorDtype(StrEnum):
    """The dtype of the written factors."""

    STORED = "stored"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


AdapterFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="An adapter folder in PEFT's format, or a run's.")
]
Output = Annotated[
    Path, typer.Option(metavar="DIR", help="The folder to write; it must not hold anything.")
]
Rank = Annotated[
    int | None, typer.Option(metavar="N", help="Cut every layer to this rank, by SVD.")
]
MaxError = Annotated[
    float | None,
    typer.Option(
        metavar="E", help="Cut every layer to the least rank within this relative error (0.05)."
    ),
]
Dtype = Annotated[
    FactorDtype, typer.Option(help="Of the written factors; stored: the widest given.")
]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _adapter() -> None:
    """Look into saved adapters, convert them, combine them.

    PEFT's folders and ours.

    \b
    Example:
      lorakit adapter info runs/recipe
      lorakit adapter convert runs/dora --to lora --rank 64 --output plain
      lorakit adapter combine clinic style:0.5 --output both
    """


@app.command()
def info(
    folder: AdapterFolder,
    layers: Annotated[bool, typer.Option("--layers", help="Every layer, not by name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what an adapter is: kind, rank, targets, base, sizes.

    And how much it changes each layer.

    \b
    Example:
      lorakit adapter info runs/recipe
      lorakit adapter info downloads/some-lora --layers
      lorakit adapter info downloads/some-lora --json
    """
    with stdout_for_results():
        from lorakit.adapters.arithmetic.info import adapter_info

        found = adapter_info(folder)
    if as_json:
        print_json(found.to_json())
    else:
        show_info(found, every_layer=layers)


@app.command()
def convert(
    folder: AdapterFolder,
    output: Output,
    to: Annotated[Form, typer.Option(help="Plain alpha / r, or rsLoRA's alpha / sqrt(r).")],
    rank: Rank = None,
    max_error: MaxError = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The base a DoRA was trained on; for a run its recipe says which, and how stored.",
        ),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The adapter before its training, for an init that changes the base (PiSSA).",
        ),
    ] = None,
    dtype: Dtype = FactorDtype.STORED,
    as_json: AsJson = False,
) -> None:
    """Write an adapter in another form.

    The error of what is not exact is shown. rsLoRA and LoRA are the same function under another
    alpha. PiSSA, OLoRA and their kind become a LoRA of twice the rank that needs no change of the
    base. A DoRA's change has full rank, so it is approximated; `lorakit merge` is the exact way.

    \b
    Example:
      lorakit adapter convert some-rslora --to lora --output plain
      lorakit adapter convert some-lora --to lora --rank 8 --output small
      lorakit adapter convert some-pissa --to lora --initial some-pissa/start --output plain
      lorakit adapter convert some-dora --to lora --base org/model --rank 64 --output plain
    """
    with stdout_for_results():
        from lorakit.adapters.arithmetic.convert import convert_adapter

        written = convert_adapter(
            folder,
            output,
            to=to.value,
            rank=rank,
            max_error=max_error,
            dtype=_torch_dtype(dtype),
            initial=initial,
            base=_base_of(folder, base),
        )
    _tell(written, as_json=as_json)


@app.command()
def combine(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="DIR[:WEIGHT]...", help="Adapter folders, each with its weight."),
    ],
    output: Output,
    method: Annotated[
        Method,
        typer.Option(
            help="add: the weighted sum; interpolate: the weighted mean; concatenate: the sum, "
            "no factor cut."
        ),
    ] = Method.ADD,
    rank: Rank = None,
    max_error: MaxError = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The base's name, if the adapters name it differently."),
    ] = None,
    dtype: Dtype = FactorDtype.STORED,
    as_json: AsJson = False,
) -> None:
    """Write the adapter that does what several do together.

    Their changes are added, exactly.

    \b
    Example:
      lorakit adapter combine clinic style --output both
      lorakit adapter combine clinic:0.7 style:0.3 --method interpolate --output mixed
      lorakit adapter combine clinic:1 toxic:-1 --rank 16 --output without
      lorakit adapter combine clinic:0.5 --output half
    """
    given = [_folder_and_weight(text) for text in folders]
    with stdout_for_results():
        from lorakit.adapters.arithmetic.combine import combine_adapters

        written = combine_adapters(
            [path for path, _ in given],
            output,
            weights=[weight for _, weight in given],
            method=method.value,
            rank=rank,
            max_error=max_error,
            dtype=_torch_dtype(dtype),
            base=base,
        )
    _tell(written, as_json=as_json)


def _tell(written: Written, *, as_json: bool) -> None:
    if as_json:
        print_json(written.to_json())
    else:
        show_written(written)


def _folder_and_weight(text: str) -> tuple[Path, float]:
    """`DIR` or `DIR:WEIGHT`; an existing folder is taken by its whole name."""
    head, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        weight = float(tail)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise InputError(
            f"{text!r} is neither a folder nor DIR:WEIGHT, such as clinic:0.5; {tail!r} is no "
            "weight. Fix it."
        )
    return Path(head), weight


def _torch_dtype(dtype: FactorDtype) -> torch.dtype | None:
    import torch

    return None if dtype is FactorDtype.STORED else getattr(torch, dtype.value)


def _base_of(folder: Path, model: str | None) -> Base | None:
    """The base that was named, stored as its files are, or that of a run with a DoRA, as its
    recipe stored it.
    """
    from lorakit.adapters.arithmetic.dora import Base

    if not (folder / "recipe.yaml").is_file():
        return None if model is None else Base(model)
    import torch

    from lorakit.base.of_run import base_of_run
    from lorakit.recipe import BaseSection
    from lorakit.run_folder import dtype_of, finished_run

    run, recipe = finished_run(folder)
    if recipe.adapter.kind_name != "dora":
        return None if model is None else Base(model)
    base = base_of_run(run, recipe) if model is None else BaseSection(model=model)
    return Base(
        base.model,
        revision=base.revision,
        quantization=recipe.base.quantization,
        double_quantization=recipe.base.double_quantization,
        block_size=recipe.base.block_size,
        dtype=getattr(torch, dtype_of(run)),
    )
