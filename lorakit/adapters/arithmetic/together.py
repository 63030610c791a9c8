"""What keeps saved adapters from being combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorakit.adapters.arithmetic.saved import SavedAdapter
from lorakit.adapters.peft_config import INITS_BESIDE_THE_BASE
from lorakit.errors import AdapterError

# Lists whose order says nothing; that of token ids is that of the saved rows.
UNORDERED = ("modules_to_save", "target_parameters")


def check_together(adapters: Sequence[SavedAdapter], method: str, base: str | None) -> str | None:
    """The base of all.

    Raises:
        AdapterError: something keeps the adapters from being combined.
    """
    for adapter in adapters:
        _refuse_not_additive(adapter)
        if method != "interpolate" and adapter.replaced:
            raise AdapterError(
                f"{adapter.folder} holds values that stand in for the base's own "
                f"({_names(adapter.replaced)}); their sum means nothing without the base. Possible "
                "is the method 'interpolate', when every adapter has them. Use that, or leave the "
                "adapter out."
            )
    first = adapters[0]
    for other in adapters[1:]:
        _check_same(first, other, "task_type")
        _check_same(first, other, "target_parameters")
        _check_shapes(first, other)
        differing = first.replaced.keys() ^ other.replaced.keys()
        if differing:
            raise AdapterError(
                f"only one of {first.folder} and {other.folder} holds {_names(differing)}, values "
                "that stand in for the base's own; possible to interpolate is what every adapter "
                "has. Leave one of them out."
            )
        for field in ("bias", "modules_to_save", "trainable_token_indices"):
            _check_same(first, other, field)
    bases = {adapter.values.get("base_model_name_or_path") for adapter in adapters}
    if base is None and len(bases) > 1:
        raise AdapterError(
            f"the adapters name the bases {', '.join(sorted(map(repr, bases)))}; possible: "
            "adapters of one base. If these are names of the same one, say which to write with "
            "base (--base)."
        )
    return base if base is not None else bases.pop()


def check_known_corrections(sources: Sequence[tuple[float, SavedAdapter]]) -> None:
    """Raise AdapterError where a correction of the base would be there more than once, or partly,
    and no longer can be told from what was trained.
    """
    correcting = [adapter for _, adapter in sources if adapter.start.corrects_base]
    for weight, adapter in sources:
        unknown = adapter.start.corrects_base and not adapter.start.corrections
        if unknown and (len(correcting) > 1 or weight != 1):
            raise AdapterError(
                f"{adapter.folder} holds the correction of a quantized base (loftq) together with "
                "what was trained, which can only be taken whole (weight 1), and once. Possible: "
                "the folders that save_adapter wrote, with their unconverted/ form. Combine those."
            )


def _refuse_not_additive(adapter: SavedAdapter) -> None:
    if adapter.uses_dora:
        raise AdapterError(
            f"{adapter.folder} is a DoRA: it rescales every row of the base's weight, so changes "
            "do not add up; possible are LoRA and rsLoRA. Make a LoRA of it first: `lorakit "
            "adapter convert --to lora --base MODEL --rank N`."
        )
    if adapter.init not in INITS_BESIDE_THE_BASE:
        raise AdapterError(
            f"{adapter.folder} has init_lora_weights {adapter.init!r}, which changes the base when "
            "it is loaded, so its factors are not the change; possible are adapters on the base "
            "itself. Make a plain LoRA of it first: `lorakit adapter convert --to lora --initial "
            "DIR`."
        )


def _check_same(first: SavedAdapter, other: SavedAdapter, field: str) -> None:
    one, two = first.values.get(field) or None, other.values.get(field) or None
    if field in UNORDERED:
        one, two = (sorted(v) if isinstance(v, list) else v for v in (one, two))
    if one != two and not (field == "bias" and {one, two} <= {None, "none"}):
        raise AdapterError(
            f"{field} is {str(one)[:80]} in {first.folder} and {str(two)[:80]} in {other.folder}; "
            "possible: the same in all. Leave one of them out."
        )


def _check_shapes(first: SavedAdapter, other: SavedAdapter) -> None:
    differing = [
        f"{name} {first.layers[name].layout} {first.layers[name].shape[1:]} and "
        f"{other.layers[name].layout} {other.layers[name].shape[1:]}"
        for name in first.layers.keys() & other.layers.keys()
        if (first.layers[name].layout, first.layers[name].shape)
        != (other.layers[name].layout, other.layers[name].shape)
    ]
    if differing:
        raise AdapterError(
            f"{first.folder} and {other.folder} adapt {len(differing)} layers of different shapes, "
            f"such as {min(differing)}; possible: adapters of one base. Leave one of them out."
        )


def _names(names: Mapping[str, object] | set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
