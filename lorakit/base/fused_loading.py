"""Fusing experts while they are loaded, without a second copy of them.

transformers stacks the tensors of all experts of one projection, then joins the projections, and
has everything twice while it does. These operations give the same tensors, but write each part into
the fused one and let it go. They stand in for transformers' own while a model is loaded, and leave
with the loading: a model's saving reverses the operations that it was loaded with.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    MergeModulelist,
    WeightConverter,
    WeightTransform,
)

Tensors = dict[str, Any]


class StackInPlace(MergeModulelist):
    """`MergeModulelist` that leaves lists to the joining operation, where one follows."""

    def convert(  # type: ignore[override]  # transformers calls it by keyword
        self, input_dict: Tensors, source_patterns: list[str], target_patterns: list[str], **_: Any
    ) -> Tensors:
        if len(input_dict) > 1:
            return input_dict
        (parts,) = input_dict.values()
        shape = (len(parts), *parts[0].shape)
        return {target_patterns[0]: _fill(shape, [parts])}


class JoinInPlace(Concatenate):
    """`Concatenate` along the rows of experts whose parts are still lists."""

    def convert(  # type: ignore[override]  # transformers calls it by keyword
        self, input_dict: Tensors, source_patterns: list[str], target_patterns: list[str], **_: Any
    ) -> Tensors:
        lists = [input_dict.pop(name) for name in source_patterns if name in input_dict]
        rows = sum(parts[0].shape[0] for parts in lists)
        shape = (len(lists[0]), rows, *lists[0][0].shape[1:])
        return {target_patterns[0]: _fill(shape, lists)}


def in_place(conversions: list[WeightTransform]) -> list[WeightTransform]:
    """The conversions of a load, those that fuse experts in place."""
    for conversion in conversions:
        if isinstance(conversion, WeightConverter):
            conversion.operations = _replaced(conversion.operations)
    return conversions


def leave(model: PreTrainedModel) -> None:
    """Give a loaded model transformers' own operations back, which its saving reverses."""
    conversions: list[WeightTransform] = vars(model)["_weight_conversions"]
    for conversion in conversions:
        if isinstance(conversion, WeightConverter):
            conversion.operations = [_own(each) for each in conversion.operations]


def _replaced(operations: list[ConversionOps]) -> list[ConversionOps]:
    kinds = [(type(each), vars(each).get("dim")) for each in operations]
    if kinds == [(MergeModulelist, 0)]:
        return [StackInPlace(dim=0)]
    if kinds == [(MergeModulelist, 0), (Concatenate, 1)]:
        return [StackInPlace(dim=0), JoinInPlace(dim=1)]
    return operations


def _own(operation: ConversionOps) -> ConversionOps:
    if isinstance(operation, StackInPlace):
        return MergeModulelist(dim=operation.dim)
    return Concatenate(dim=operation.dim) if isinstance(operation, JoinInPlace) else operation


@torch.no_grad()
def _fill(shape: tuple[int, ...], lists: list[list[torch.Tensor]]) -> torch.Tensor:
    """(E, rows, ...): for each expert its part of every list, one below the other.

    The lists are emptied: what is copied is gone.
    """
    fused = lists[0][0].new_empty(shape)
    for expert in fused:
        start = 0
        for parts in lists:
            part = parts.pop(0)
            rows = expert if len(lists) == 1 else expert[start : start + part.shape[0]]
            if rows.shape != part.shape:
                raise ValueError(f"parts of the shapes {tuple(rows.shape)} and {tuple(part.shape)}")
            rows.copy_(part)
            start += part.shape[0]
    if any(lists):
        raise ValueError("projections of different numbers of experts")
    return fused
