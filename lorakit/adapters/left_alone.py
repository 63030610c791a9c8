"""Why layers and other large parameters of a model are not adapted."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.patterns import is_below
from lorakit.adapters.row_targets import RowsTarget
from lorakit.base.frozen_linear import FrozenLinear, is_linear


def reasons_of(
    model: PreTrainedModel,
    adapted: Mapping[str, nn.Module],
    trained: Mapping[str, nn.Module],
    left_out: Mapping[str, str],
    rows: Mapping[str, RowsTarget],
    experts: Collection[str],
) -> dict[str, str]:
    """Why each linear layer and each other large parameter is not adapted."""
    others = [path for path in experts if path not in adapted]
    reasons = {path: left_out.get(path) or "not in target_parameters" for path in others}
    known = {*adapted, *experts}
    for name, module in model.named_modules():
        linear = isinstance(module, nn.Linear | Conv1D | FrozenLinear)
        if linear and name not in adapted:
            unfit = "" if is_linear(module) else f"a {type(module).__name__}, no plain linear layer"
            reasons[name] = left_out.get(name) or unfit or "not in target_modules"
            known.add(name)  # what its weight is stored in is no other parameter
        for own_name, parameter in module.named_parameters(recurse=False):
            full_name = f"{name}.{own_name}".removeprefix(".")
            if name in rows:
                count = len(rows[name].token_ids)
                reasons[full_name] = f"trainable_token_indices: {count} rows of it train"
            elif is_below(full_name, known):
                continue
            elif not linear and parameter.dim() >= 2:
                saved = is_below(name, trained)
                reasons[full_name] = (
                    "modules_to_save" if saved else _parameter_reason(parameter, module)
                )
    return reasons


def _parameter_reason(parameter: nn.Parameter, module: nn.Module) -> str:
    kind, shape = type(module).__name__, tuple(parameter.shape)
    if parameter.dim() == 3 and "expert" in kind.lower():
        return f"an expert parameter {shape} of {kind}, whose class multiplies with it by itself"
    return f"a parameter {shape} of {kind}, no linear layer"
