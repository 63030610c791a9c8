"""What `lorakit adapter` shows people: facts and tables of an adapter, and what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from lorakit.cli.output import console, visible
from lorakit.sizes import size

if TYPE_CHECKING:
    from lorakit.adapters.arithmetic.info import AdapterInfo, LayerGroup, LayerInfo, Spread
    from lorakit.adapters.arithmetic.write import Written


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
        ("size", f"{size(found.num_bytes)}, {dtypes}"),
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
        "name", "layers", "shape", "rank", "scaling", "norm", "median", "most", "eff. rank"
    )
    for group in groups:
        table.add_row(
            visible(group.name),
            str(group.count),
            _shape(group.shape),
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
            experts + _shape(layer.shape),
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


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _spread(values: Spread) -> str:
    """`8` where all layers agree, `4 to 16` where not."""
    if values.least == values.most:
        return f"{values.least:.4g}"
    return f"{values.least:.3g} to {values.most:.3g}"


def show_written(written: Written) -> None:
    """What was written, and how exact it is."""
    out = console()
    values = written.to_json()
    before, after = (
        _range(values[key]["least"], values[key]["most"]) for key in ("rank_before", "rank")
    )
    out.print(f"wrote {written.output}: {written.method}", markup=False)
    out.print(
        f"{len(written.layers)} layers, rank {before} -> {after}, "
        f"{written.num_parameters:,} parameters"
    )
    name, worst = written.worst
    out.print(
        f"relative error {written.error:.3g} in all; {worst:.3g} at most, in {visible(name)}"
        if worst > 0
        else "exact: no factor was rounded"
    )
    if written.start_difference > 0:
        out.print(
            "not quite the model that was trained: on the quantized base its weights differ by up "
            f"to {100 * written.start_difference:.3g} % of their norm; README.md says more"
        )
    if written.dropped:
        out.print(f"tokenizer left out, the adapters' differ: {', '.join(written.dropped)}")


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"
