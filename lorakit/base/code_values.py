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


def refuse_on_codes(errors: Mapping[str, float], quantization: str, block_size: int) -> None:
    """Raise ModelError where packing changed weights so little that they lay on values of codes.

    Args:
        errors: {layer: relative error of its packed weight}.
        quantization, block_size: they were packed with; in 8 bit, whose errors are small anyway,
            nothing is said.
    """
    if quantization not in FOUR_BIT:
        return
    usual = usual_error(quantization, block_size)
    near = {name: e for name, e in errors.items() if e < SHARE_OF_USUAL_ERROR * usual}
    lost = {name: e for name, e in near.items() if e > EXACT}
    if not lost or 2 * len(near) < len(errors):
        return
    worst = max(lost, key=lost.__getitem__)
    raise ModelError(
        f"packing in {quantization} changes the weights of {len(near)} of {len(errors)} layers by "
        f"at most {lost[worst]:.2%} ({worst}), where ordinary ones change by {usual:.1%}: they lie "
        "on the values of codes already, and what little lies beside them, such as a merged "
        f"adapter, is rounded away. {WHAT_TO_DO}"
    )


@cache
def usual_error(quantization: str, block_size: int) -> float:
    """The relative error of normally distributed weights."""
    weight = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    packed = storage(quantization).pack(weight, block_size=block_size, double_quantization=False)
    return float((packed.dequantize(torch.float32) - weight).norm() / weight.norm())
