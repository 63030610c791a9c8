"""Sums and means of saved adapters: of the changes they make, never of their factors.

add           sum of weight * change
interpolate   sum of weight * change / sum of weight; modules trained in full likewise
concatenate   the sum at weight 1, and nothing cut: the ranks add up, in the order given
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lorakit.adapters.arithmetic.fitted import common_corrections
from lorakit.adapters.arithmetic.low_rank import LowRank, weighted_sum
from lorakit.adapters.arithmetic.made import Limit, MadeLayer, make_layer
from lorakit.adapters.arithmetic.read import read_saved
from lorakit.adapters.arithmetic.saved import SavedAdapter, SavedLayer
from lorakit.adapters.arithmetic.together import check_known_corrections, check_together
from lorakit.adapters.arithmetic.write import Written, write_result
from lorakit.base.dtypes import FLOATING_DTYPES
from lorakit.errors import AdapterError, InputError
from lorakit.files import new_folder
from lorakit.progress import bar

METHODS = ("add", "interpolate", "concatenate")
MAX_WEIGHT = 1e9

Source = tuple[float, SavedAdapter]


def combine_adapters(
    adapters: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    method: str = "add",
    rank: int | None = None,
    max_error: float | None = None,
    dtype: torch.dtype | None = None,
    base: str | None = None,
) -> Written:
    """Write the adapter whose change is the weighted sum, or mean, of the changes of others.

    Exact but for one rounding to `dtype`; ranks, alphas, targets and dtypes may differ. The rank is
    the sum of theirs, at most that of the layer ("concatenate": the sum), unless it is cut. Nothing
    of the size of a weight is made, and no base is read.

    Args:
        adapters: folders of LoRA or rsLoRA adapters in PEFT's format, or of runs, of one base.
        output: the folder to write; may not hold anything.
        weights: one for each, of any sign; None: 1 each.
        method: "add", "interpolate" or "concatenate"; a single adapter is scaled by "add".
        rank: cut every layer to this rank, by the best approximation (SVD).
        max_error: cut every layer to the least rank within this relative Frobenius error.
        dtype: of the written factors; None: the widest of a layer's factors.
        base: name of the base that all share, for the config; needed where they name different
            ones.

    Returns:
        What was written, and its error against the exact result.

    Raises:
        InputError: options that do not go together, or an `output` that is in use.
        AdapterError: what cannot be combined, by name; nothing is written.
    """
    limit = Limit(rank, max_error)
    given = [1.0] * len(adapters) if weights is None else list(weights)
    _check_options(method, limit, given, len(adapters))
    sources = [(weight, read_saved(f)) for weight, f in zip(given, adapters, strict=True)]
    final = new_folder(Path(output))
    common_base = check_together([adapter for _, adapter in sources], method, base)
    if method == "interpolate":
        sources = [(weight / sum(given), adapter) for weight, adapter in sources]
    check_known_corrections(sources)
    others = other_tensors(sources)
    layers = make_layers(sources, limit, dtype, cut_to_size=method != "concatenate")
    return write_result(
        final, sources, layers, others, method=_words(method, limit), base=common_base
    )


def make_layers(
    sources: Sequence[Source],
    limit: Limit,
    dtype: torch.dtype | None,
    *,
    cut_to_size: bool = True,
    exact: Callable[[str], LowRank] | None = None,
) -> dict[str, MadeLayer]:
    """{layer name: the weighted sum over the sources that have it}.

    What their starts correct in a quantized base is in it once, whatever the weights.

    Args:
        cut_to_size: cut ranks above that of the layer, which loses nothing.
        exact: makes a layer's exact change, if it is not the weighted sum.
    """
    found: dict[str, list[tuple[float, SavedAdapter]]] = {}
    for weight, adapter in sources:
        for name in adapter.layers:
            found.setdefault(name, []).append((weight, adapter))
    folders = [(str(adapter.folder), adapter.start) for _, adapter in sources]
    corrections = common_corrections(folders) if exact is None else {}
    made = {}
    with bar("combining", total=len(found)) as running:
        for name, holders in sorted(found.items()):
            change = (
                _weighted_trainings(name, holders, corrections.get(name))
                if exact is None
                else exact(name)
            )
            too_long = cut_to_size and change.rank > change.most_rank and not limit.cuts
            saved = [adapter.layers[name] for _, adapter in holders]
            made[name] = make_layer(
                name,
                change,
                saved[0].layout,
                dtype or widest(saved),
                Limit(change.most_rank) if too_long else limit,
            )
            running.advance()
    return made


def _weighted_trainings(
    name: str, holders: Sequence[Source], correction: LowRank | None
) -> LowRank:
    """`sum of weight * (change - correction) + correction`; without one the weighted sum."""
    parts = [(weight, adapter.low_rank(name)) for weight, adapter in holders]
    if correction is not None:
        corrected = [weight for weight, adapter in holders if name in adapter.start.corrections]
        missing = 1.0 - math.fsum(corrected)
        if not math.isclose(missing, 0.0, abs_tol=1e-12):  # 0.7 + 0.3 is 1 but for a rounding
            parts.append((missing, correction))
    return weighted_sum(parts)


def widest(layers: Sequence[SavedLayer]) -> torch.dtype:
    """The dtype that holds all factors of these layers."""
    stored = [FLOATING_DTYPES[dtype] for layer in layers for dtype in sorted(layer.dtypes)]
    found = stored[0]
    for dtype in stored[1:]:
        found = torch.promote_types(found, dtype)
    return found


def other_tensors(sources: Sequence[Source]) -> dict[str, torch.Tensor]:
    """What is no low-rank factor: weighted sums of the values that stand in for the base's, and
    copies of the base's as they are.

    Summed in float64; in the dtype of the first.

    Raises:
        AdapterError: shapes differ, or copies of the base do.
    """
    values = [(weight, adapter, adapter.others()) for weight, adapter in sources]
    result: dict[str, torch.Tensor] = {}
    for _, adapter, tensors in values:
        for name in adapter.copies:
            if name in result and not torch.equal(result[name], tensors[name]):
                raise AdapterError(
                    f"the copies of the base's {name!r} differ between the adapters; possible: "
                    "adapters of one base. Check what they were trained on."
                )
            result[name] = tensors[name]
    _, first, own = values[0]
    for name in first.replaced:
        shapes = {tensors[name].shape for _, _, tensors in values}
        if len(shapes) > 1:
            raise AdapterError(
                f"{name!r} has the shapes {sorted(map(tuple, shapes))}; possible: one shape. Leave "
                "one of the adapters out."
            )
        parts = [weight * tensors[name].double() for weight, _, tensors in values]
        result[name] = torch.stack(parts).sum(dim=0).to(own[name].dtype)
    return result


def _check_options(method: str, limit: Limit, weights: list[float], num_adapters: int) -> None:
    if method not in METHODS:
        raise InputError(
            f"method {method!r} is not possible; possible are {', '.join(METHODS)}. Choose one."
        )
    if not weights or len(weights) != num_adapters:
        raise InputError(
            f"{num_adapters} adapters and {len(weights)} weights were given; possible: one or more "
            "adapters, with a weight each. Name them."
        )
    if not all(abs(weight) <= MAX_WEIGHT for weight in weights):  # NaN neither
        raise InputError(
            f"the weights {weights} are not all possible; possible are numbers from "
            f"{-MAX_WEIGHT:g} to {MAX_WEIGHT:g}. Fix them."
        )
    if method == "interpolate" and sum(weights) == 0:
        raise InputError(
            f"the weights {weights} sum to 0, which has no mean; possible with 'interpolate' is "
            "any other sum. Change them, or use 'add'."
        )
    if method == "concatenate" and (limit.cuts or any(weight != 1 for weight in weights)):
        raise InputError(
            "'concatenate' keeps every adapter's factors whole, at weight 1; weights and a rank "
            "are possible with 'add'. Use that."
        )


def _words(method: str, limit: Limit) -> str:
    what = {
        "add": "The sum of weight times change.",
        "interpolate": "The mean of the changes, by weight.",
        "concatenate": "The sum of the changes, factors one after the other.",
    }[method]
    return what + cut_words(limit)


def cut_words(limit: Limit) -> str:
    """How the rank was cut, in words."""
    if limit.rank is not None:
        return f" Cut to rank {limit.rank} by SVD."
    if limit.max_error is not None:
        return f" Cut by SVD to a relative error of at most {limit.max_error:g} in every layer."
    return ""
