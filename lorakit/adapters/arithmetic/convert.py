"""A saved adapter in another form: plain LoRA or rsLoRA, on the base itself, of another rank."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from lorakit.adapters.arithmetic.combine import cut_words, make_layers, other_tensors
from lorakit.adapters.arithmetic.dora import Base, lora_of_dora
from lorakit.adapters.arithmetic.low_rank import LowRank, weighted_sum
from lorakit.adapters.arithmetic.made import Limit
from lorakit.adapters.arithmetic.read import read_saved
from lorakit.adapters.arithmetic.saved import SavedAdapter
from lorakit.adapters.arithmetic.write import Written, write_result
from lorakit.adapters.peft_config import INITS_BESIDE_THE_BASE
from lorakit.errors import AdapterError, InputError
from lorakit.files import new_folder

FORMS = ("lora", "rslora")
# Inits of PEFT's for which W + s (B A - B0 A0) is what was trained; N stands for a number.
TAKEN_OUT = ("pissa", "pissa_niter_N", "olora", "corda", "lora_ga")


def convert_adapter(
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: str = "lora",
    rank: int | None = None,
    max_error: float | None = None,
    dtype: torch.dtype | None = None,
    initial: str | os.PathLike[str] | None = None,
    base: Base | None = None,
) -> Written:
    """Write a saved adapter in another form.

    LoRA and rsLoRA are the same function under another alpha: the factors keep their bits unless
    the rank is cut. An adapter whose init changed the base (PiSSA, OLoRA, ...) becomes a LoRA of
    twice the rank on the base itself: `scaling * (B A - B0 A0)`, exactly. A DoRA's change has full
    rank: it is approximated, and the error is measured.

    Args:
        adapter: folder in PEFT's format, or of a run.
        output: the folder to write; may not hold anything.
        to: "lora" or "rslora".
        rank: cut every layer to this rank, by the best approximation (SVD); a DoRA needs it, or
            `max_error`.
        max_error: cut every layer to the least rank within this relative Frobenius error.
        dtype: of the written factors; None: the widest of a layer's factors.
        initial: folder of the adapter as it was before training, for an init that changes the base
            (what PEFT calls path_initial_model_for_weight_conversion).
        base: the weights that a DoRA was trained on.

    Returns:
        What was written, and its error against the exact change.

    Raises:
        InputError: options that do not go together, or an `output` that is in use.
        AdapterError: what cannot be converted, by name; nothing is written.
        ModelError: the base cannot be read.
    """
    limit = Limit(rank, max_error)
    if to not in FORMS:
        raise InputError(f"to {to!r} is not possible; possible are {', '.join(FORMS)}.")
    saved = read_saved(adapter)
    start = None if initial is None else read_saved(initial)
    final = new_folder(Path(output))
    _check_needs(saved, start, base, limit)
    sources = [(1.0, saved)]
    if saved.uses_dora:
        assert base is not None
        layers = lora_of_dora(saved, base, limit, dtype)
        words = "The best low-rank approximation of what a DoRA changes in the base's weights."
    elif start is None:
        layers = make_layers(sources, limit, dtype)
        words = "The same change in another form."
    else:
        layers = make_layers(sources, limit, dtype, exact=_difference_from(saved, start))
        sources.append((-1.0, start))
        words = f"The change from the start ({saved.init}) to the end of the training."
    return write_result(
        final,
        sources,
        layers,
        other_tensors([(1.0, saved)]),
        method=words + cut_words(limit),
        base=saved.values.get("base_model_name_or_path"),
        use_rslora=to == "rslora",
    )


def _check_needs(
    saved: SavedAdapter, start: SavedAdapter | None, base: Base | None, limit: Limit
) -> None:
    """What the adapter's kind needs is given, and nothing that would have no effect."""
    moved = saved.init not in INITS_BESIDE_THE_BASE
    if saved.uses_dora and moved:
        raise AdapterError(
            f"{saved.folder} is a DoRA with init_lora_weights {saved.init!r}, whose base changes "
            "too; possible are one or the other. Merge it with the tool that trained it."
        )
    if saved.uses_dora and (base is None or not limit.cuts):
        raise AdapterError(
            f"{saved.folder} is a DoRA: it rescales every row of the base's weight, so its change "
            "has full rank and depends on the base. Possible: its best approximation, with base "
            "and rank (--base MODEL --rank N, or --max-error E); or exactly, as merged weights: "
            "`lorakit merge`."
        )
    if base is not None and not saved.uses_dora:
        raise InputError(
            f"base {str(base.model)!r} was given, but {saved.folder} is no DoRA: its change is "
            "in its factors. Leave base out."
        )
    if moved and not _starts_from_its_factors(saved.init):
        raise AdapterError(
            f"{saved.folder} has init_lora_weights {saved.init!r}, of which nothing says that the "
            "change is that of its factors from their start; possible with initial are "
            f"{', '.join(TAKEN_OUT)}. Convert it with the tool that trained it, or merge it there."
        )
    if moved and start is None:
        raise AdapterError(
            f"{saved.folder} has init_lora_weights {saved.init!r}, which changes the base when it "
            "is loaded: the change is that from its start. Possible: with the adapter as it was "
            "before training. Give its folder with initial (--initial DIR)."
        )
    if start is None:
        return
    if not moved:
        raise InputError(
            f"initial {start.folder} was given, but {saved.folder} has init_lora_weights "
            f"{saved.init!r}, which leaves the base alone. Leave initial out."
        )
    if start.uses_dora or start.layers.keys() != saved.layers.keys():
        raise AdapterError(
            f"{start.folder} does not adapt the layers that {saved.folder} adapts; possible is the "
            "same adapter before its training. Name that folder."
        )
    differing = [
        name
        for name, layer in saved.layers.items()
        if (start.layers[name].shape, start.layers[name].r) != (layer.shape, layer.r)
        or start.layers[name].scaling != layer.scaling
    ]
    if differing:
        raise AdapterError(
            f"{start.folder} has other shapes, ranks or alphas than {saved.folder} in "
            f"{len(differing)} layers, such as {differing[0]}; possible is the same adapter before "
            "its training. Name that folder."
        )


def _starts_from_its_factors(init: object) -> bool:
    """Whether an init takes out of the base what its factors start with, and nothing else: loftq
    puts another weight there.
    """
    return isinstance(init, str) and any(
        re.fullmatch(name.replace("N", r"\d+"), init) for name in TAKEN_OUT
    )


def _difference_from(saved: SavedAdapter, start: SavedAdapter) -> Callable[[str], LowRank]:
    return lambda name: weighted_sum([(1.0, saved.low_rank(name)), (-1.0, start.low_rank(name))])
