"""Starts that were fitted to a quantized base: what of a saved adapter its training changed, and
what corrected the base before it.

    plain form = s B A - s B' A' = correction + training,    correction = s (B0 A0 - B' A')

A0 B0 start, A' B' what was taken out of the base, s scaling. The correction of pissa and olora is
0, that of loftq is not: a sum of adapters holds it once, whatever their weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorakit.adapters import own_form
from lorakit.adapters.arithmetic.low_rank import LowRank, distance, norm, weighted_sum
from lorakit.adapters.contract import Factors
from lorakit.adapters.peft_config import parse_config
from lorakit.adapters.ranks import module_rank_and_alpha, scaling_of
from lorakit.errors import AdapterError

# Two fits of one base on two machines differ in the last bits of a decomposition.
SAME_CORRECTION = 1e-3


@dataclass(frozen=True)
class FittedStart:
    """What is known of an adapter's start beyond its plain form.

    Attributes:
        corrections: {layer name: what the start corrects}; empty where nothing says it.
        corrects_base: whether the plain form holds a correction, known or not.
        differences: of every layer, how far the trained weights are from those of the plain form on
            the quantized base, as a part of the norm of the original weight; empty on a dense one.
    """

    corrections: Mapping[str, LowRank]
    corrects_base: bool
    differences: tuple[float, ...]


def read_fitted_start(folder: Path, shapes: Mapping[str, tuple[int, int, int]]) -> FittedStart:
    """What the adapter in `folder` says of its start.

    Args:
        folder: of the plain form.
        shapes: {layer name: (E, O, I)} of its linear layers.

    Raises:
        AdapterError: an unconverted form that is not whole, or another adapter's.
    """
    adapter = own_form.find(folder)
    if adapter is None:
        return FittedStart({}, (folder / own_form.MARK).exists(), ())
    form = own_form.read(adapter)
    config = parse_config(adapter / own_form.FOLDER / own_form.FILE, form.adapter_config).config
    ranks = module_rank_and_alpha(shapes, config)
    starts = own_form.read_starts(
        adapter, {name: (ranks[name][0], shape[2], shape[1]) for name, shape in shapes.items()}
    )
    corrections = {}
    for name, start in starts.items():
        if start.corrects_base:
            r, alpha = ranks[name]
            scaling = scaling_of(r, alpha, use_rslora=config.use_rslora)
            parts = [(1.0, _low_rank(Factors(start.lora_A, start.lora_B), scaling))]
            if start.subtracted is not None:
                parts.append((-1.0, _low_rank(start.subtracted, scaling)))
            corrections[name] = weighted_sum(parts)
    differences = [error["plain_difference"] for error in form.start_errors.values()]
    return FittedStart(corrections, bool(corrections), tuple(d for d in differences if d))


def common_corrections(
    sources: Collection[tuple[str, FittedStart]],
) -> dict[str, LowRank]:
    """{layer name: the one correction} of adapters that start from the same.

    Args:
        sources: (folder, start) of every adapter.

    Raises:
        AdapterError: two adapters correct the same layer differently.
    """
    found: dict[str, tuple[str, LowRank]] = {}
    for folder, start in sources:
        for name, correction in start.corrections.items():
            other, known = found.setdefault(name, (folder, correction))
            if distance(known, correction) > SAME_CORRECTION * norm(known):
                raise AdapterError(
                    f"{other} and {folder} start from different corrections of the quantized base, "
                    f"such as in {name}: what one of them learned stands on its own. Possible: "
                    "adapters of one init, rank and alpha on one base. Leave one of them out."
                )
    return {name: correction for name, (_, correction) in found.items()}


def _low_rank(factors: Factors, scaling: float) -> LowRank:
    return LowRank(factors.lora_B.double()[None], factors.lora_A.double()[None], scaling)
