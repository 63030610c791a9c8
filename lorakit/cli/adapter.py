"""`lorakit adapter`: what a saved adapter is, the same in another form, several as one."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lorakit.cli.output import (
    AsJson,
    console,
    human_bytes,
    print_json,
    stdout_for_results,
    visible,
)
from lorakit.errors import InputError

if TYPE_CHECKING:
    import torch

    from lorakit.adapters.arithmetic.dora import Base
    from lorakit.adapters.arithmetic.info import AdapterInfo, LayerGroup, LayerInfo, Spread
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
    """Look into saved adapters, convert them, combine them; PEFT's folders and ours.

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
    """Say what an adapter is: kind, rank, targets, base, and how much each layer changes.

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
            metavar="MODEL", help="The base a DoRA was trained on; for a run the recipe says."
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
    """Write an adapter in another form; the error of what is not exact is shown.

    rsLoRA and LoRA are the same function under another alpha. PiSSA, OLoRA and their kind become a
    LoRA of twice the rank that needs no change of the base. A DoRA's change has full rank, so it
    is approximated; `lorakit merge` is the exact way.

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
    _show(written, as_json=as_json)


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
    """Write the adapter that does what several do together: their changes are added, exactly.

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
    _show(written, as_json=as_json)


def show_info(found: AdapterInfo, *, every_layer: bool = False) -> None:
    """What an adapter is, in words and a table."""
    out = console()
    for name, value in _facts(found):
        out.print(visible(f"{name:<16}{value}"))
    out.print()
    out.print(_layer_table(found.layers) if every_layer else _group_table(found.groups()))
    if found.kind == "dora":
        out.print("A DoRA: norms are those of its low-rank part; its magnitudes need the base.")
    if found.changes_base:
        out.print(
            f"init_lora_weights {found.init_lora_weights} changes the base when it is loaded: "
            "norms are not those of the change. `lorakit adapter convert --initial` makes it plain."
        )


def _facts(found: AdapterInfo) -> list[tuple[str, str]]:
    """(name, value) of what is not per layer; options that are off are left out."""
    kind = {"lora": "LoRA", "dora": "DoRA"}[found.kind]
    dtypes = ", ".join(f"{name} ({count})" for name, count in found.dtypes.items())
    experts = sum(layer.num_experts for layer in found.layers if layer.layout == "experts")
    facts: list[tuple[str, object]] = [
        ("adapter", found.folder),
        ("kind", f"{kind}{', rsLoRA scaling' if found.use_rslora else ''}"),
        ("init", found.init_lora_weights),
        ("base", found.base_model or "not named"),
        ("revision", found.revision),
        ("task", found.task_type),
        ("targets", _short(found.target_modules) or "not named"),
        ("experts", f"{_short(found.target_parameters)}, {experts} matrices" if experts else None),
        ("layers", len(found.layers)),
        ("parameters", f"{found.num_parameters:,}"),
        ("size", f"{human_bytes(found.num_bytes)}, {dtypes}"),
        ("trained in full", _short(found.modules_to_save)),
        ("token rows", _short(found.trainable_token_indices)),
        ("biases", None if found.bias == "none" else found.bias),
        ("lora_bias", found.lora_bias or None),
        ("copies of base", _short(list(found.copies))),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _short(value: Any) -> str | None:
    """A list as words, at most ten of them."""
    if not isinstance(value, list):
        return None if value is None else str(value)[:200]
    more = f" and {len(value) - 10} more" if len(value) > 10 else ""
    return f"{', '.join(map(str, value[:10]))}{more}" if value else None


def _group_table(groups: list[LayerGroup]) -> Table:
    table = _table(
        "name", "layers", "shape", "rank", "scaling", "norm from", "median", "to", "eff. rank"
    )
    for group in groups:
        table.add_row(
            visible(group.name),
            str(group.count),
            f"{group.shape[0]} x {group.shape[1]}",
            _spread(group.r),
            _spread(group.scaling),
            f"{group.norm.least:.3g}",
            f"{group.norm.median:.3g}",
            f"{group.norm.most:.3g}",
            f"{group.effective_rank.median:.3g}",
        )
    return table


def _layer_table(layers: list[LayerInfo]) -> Table:
    table = _table("layer", "shape", "rank", "scaling", "norm of change", "largest", "effective")
    for layer in layers:
        experts = f"{layer.num_experts} x " if layer.layout == "experts" else ""
        table.add_row(
            visible(layer.name),
            f"{experts}{layer.shape[0]} x {layer.shape[1]}",
            str(layer.r),
            f"{layer.scaling:.4g}",
            f"{layer.norm:.4g}",
            f"{layer.largest:.4g}",
            f"{layer.effective_rank:.3g}",
        )
    return table


def _table(*names: str) -> Table:
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _spread(values: Spread) -> str:
    """`8` where all layers agree, `4 to 16` where not."""
    if values.least == values.most:
        return f"{values.least:.4g}"
    return f"{values.least:.3g} to {values.most:.3g}"


def _show(written: Written, *, as_json: bool) -> None:
    if as_json:
        print_json(written.to_json())
        return
    out = console()
    values = written.to_json()
    before, after = (
        _range(values[key]["least"], values[key]["most"]) for key in ("rank_before", "rank")
    )
    name, worst = written.worst
    out.print(f"wrote {written.output}: {written.method}", markup=False)
    out.print(
        f"{len(written.layers)} layers, rank {before} -> {after}, "
        f"{written.num_parameters:,} parameters"
    )
    out.print(f"relative error {written.error:.3g} in all; {worst:.3g} at most, in {visible(name)}")
    if written.dropped:
        out.print(f"tokenizer left out, the adapters' differ: {', '.join(written.dropped)}")


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


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
    """The base that was named, or that of a run with a DoRA, as its recipe stored it."""
    from lorakit.adapters.arithmetic.dora import Base

    if model is not None:
        return Base(model)
    if not (folder / "recipe.yaml").is_file():
        return None
    import torch

    from lorakit.run_folder import dtype_of, finished_run

    run, recipe = finished_run(folder)
    if recipe.adapter.kind_name != "dora":
        return None
    return Base(
        recipe.base.model,
        revision=recipe.base.revision,
        quantization=recipe.base.quantization,
        double_quantization=recipe.base.double_quantization,
        block_size=recipe.base.block_size,
        dtype=getattr(torch, dtype_of(run)),
    )
