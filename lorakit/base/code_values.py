"""Weights that lie on the values of codes, or a small change beside them.

That is what a faithful merge into a packed base holds. Packed again, they fall back onto the codes
that they came from, and the change is gone. Such a folder carries a mark; weights that lost it show
by how little packing changes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from lorakit.base.storages import storage
from lorakit.errors import ModelError
from lorakit.files import write_json

MARK = "lorakit_merge.json"
FOUR_BIT = ("nf4", "fp4")
# Of the error of normal weights: below this, weights are no ordinary ones.
SHARE_OF_USUAL_ERROR = 1 / 3
# Weights that codes hold as they are, such as ternary ones, lose nothing.
EXACT = 1e-4

WHAT_TO_DO = (
    "Possible: `lorakit merge RUN --quantize`, which packs the original weights with the change "
    "once; or this, knowing it, with --allow-lost-adapter."
)


def mark(folder: Path, quantization: str) -> None:
    """Note that a folder's weights lie on the values of the codes of `quantization`."""
    write_json(folder / MARK, {"merged_into": "dequantized", "base_quantization": quantization})


def refuse_marked(folder: Path) -> None:
    """Raise ModelError where a folder is marked, and so not to be packed."""
    path = folder / MARK
    if not path.is_file():
        return
    try:
        quantization = json.loads(path.read_text("utf-8"))["base_quantization"]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{str(path)!r} cannot be read ({error}); possible: the file as `lorakit merge` wrote "
            "it. Restore it, or write the merge again."
        ) from error
    raise ModelError(
        f"{str(folder)!r} is an adapter merged into the dequantized weights of a base in "
        f"{quantization!r} ({MARK}): they lie on the values of its codes, and packing them again "
        f"rounds the adapter away. {WHAT_TO_DO}"
    )


def is_near_codes(error: float, quantization: str, block_size: int) -> bool:
    """Whether packing changed a weight so little that it lay on the values of codes, or close by.

    Args:
        error: relative, of the packed weight.
        quantization, block_size: it was packed with; in 8 bit errors are small anyway.
    """
    if quantization not in FOUR_BIT:
        return False
    return error < SHARE_OF_USUAL_ERROR * usual_error(quantization, block_size)


def refuse_on_codes(beside_codes: Mapping[str, float], num_layers: int) -> None:
    """Raise ModelError where packing rounds away what little lies beside the values of codes.

    Args:
        beside_codes: {layer that is near codes: how far from them, relative to its weight}.
        num_layers: that were packed.
    """
    lost = {name: part for name, part in beside_codes.items() if part > EXACT}
    if not lost or 2 * len(beside_codes) < num_layers:
        return
    worst = max(lost, key=lost.__getitem__)
    raise ModelError(
        f"packing changes the weights of {len(beside_codes)} of {num_layers} layers by at most "
        f"{lost[worst]:.2%} ({worst}), far less than ordinary ones: they lie on the values of "
        "codes already, and what little lies beside them, such as a merged adapter, is rounded "
        f"away. {WHAT_TO_DO}"
    )


@cache
def usual_error(quantization: str, block_size: int) -> float:
    """The relative error of normally distributed weights."""
    weight = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    packed = storage(quantization).pack(weight, block_size=block_size, double_quantization=False)
    return float((packed.dequantize(torch.float32) - weight).norm() / weight.norm())
