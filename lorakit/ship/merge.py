"""Merge in memory: a plain transformers model that computes what base and adapter computed.

The faithful merge goes into the very weights the adapter was trained on: for a quantized base into
the dequantized ones; another one into the original weights. None goes into 4-bit codes, where a
small change is rounded away.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from lorakit.adapters.attached import adapters_of, attached, forget
from lorakit.adapters.contract import AdaptedModule
from lorakit.adapters.modules import AdaptedLinear
from lorakit.adapters.plain import plain_experts, plain_linear
from lorakit.base import attention, experts_forward
from lorakit.base.config import NOISE_FIELD, RESCALING_FIELD, read_config
from lorakit.base.frozen_experts import FrozenExperts, take_back
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.info import base_info
from lorakit.base.quantization_config import KEY
from lorakit.base.storages.dense import DenseWeight
from lorakit.errors import AdapterError, ModelError
from lorakit.ship.merge_options import DEQUANTIZED, ORIGINAL, check_into
from lorakit.ship.original import put_into_original

FROZEN_OR_ADAPTED = AdaptedModule | FrozenLinear | FrozenExperts

logger = logging.getLogger(__name__)

UNTIED = (
    "the merged model is untied: output head and input embedding were one weight, and the adapter "
    "changes one of them, or each in its own way; tie_word_embeddings is false now"
)


@torch.no_grad()
def merge(model: PreTrainedModel, *, into: str = DEQUANTIZED) -> PreTrainedModel:
    """A plain transformers model in eval mode, with no lorakit module left inside.

    Args:
        model: with an attached adapter. It stays as it is and shares no memory with the result, so
            both must fit: for large models use `merge_folder`, which streams.
        into: "dequantized": the weights the adapter was trained on (the faithful merge);
            "original": those that the base's files hold, with the change that training made since
            the start. The difference is logged.

    Returns:
        The model with dense weights in the base's dtype; each merged weight is computed in float32
        and rounded once. Its config has the dropout values of the original config.json again.

    Raises:
        AdapterError: no adapter, or an adapted weight is shared with a layer that has another one.
        InputError: an original weight cannot be read.
    """
    check_into(into)
    adapter = attached(model)
    refuse_shared_weights(
        {
            name: module.base_layer.stored.weight
            for name, module in adapter.modules.items()
            if isinstance(module, AdaptedLinear)
            and isinstance(module.base_layer.stored, DenseWeight)
        }
    )
    # deepcopy takes a module's stand-in from its memo, wherever in the model the module is.
    memo: dict[int, Any] = {id(vars(model)["save_pretrained"]): None, id(adapters_of(model)): None}
    for module in model.modules():
        # Recurrent layers keep states with a history as plain attributes, which deepcopy refuses.
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        if id(module) not in memo and isinstance(module, FROZEN_OR_ADAPTED):
            memo |= {id(part): None for part in module.modules()}
            memo[id(module)] = _plain(module)
    merged = copy.deepcopy(model, memo)
    take_back(merged)
    forget(merged)
    del vars(merged)["save_pretrained"]
    if into == ORIGINAL:
        put_into_original(model, adapter, merged)
    for name, module in adapter.modules.items():
        for partner in module.tied:
            merged.get_submodule(partner).weight = merged.get_submodule(name).weight
    restore_config(model, merged)
    return merged.requires_grad_(True).eval()


def _plain(module: nn.Module) -> nn.Module | nn.Parameter:
    if isinstance(module, AdaptedModule):
        return module.plain_module()
    if isinstance(module, FrozenExperts):
        return plain_experts(module.layout, module.weight)
    assert isinstance(module, FrozenLinear)
    return plain_linear(module, module.weight)


def refuse_shared_weights(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise AdapterError when adapted layers ({name: frozen weight}) share one weight."""
    sharing: dict[int, list[str]] = defaultdict(list)
    for name, weight in weights.items():
        sharing[id(weight)].append(name)
    for names in sharing.values():
        if len(names) > 1:
            raise AdapterError(
                f"{', '.join(names[:5])} share one weight in the base, but each has its own "
                "adapter; a merged model has one weight for all. Use base and adapter unmerged, "
                "or train with one of them excluded (adapter.exclude_modules)."
            )


def restore_config(model: PreTrainedModel, merged: PreTrainedModel) -> None:
    """Give `merged` a plain model's config: original noise values, attention, and its own ties."""
    config = merged.config
    if config._attn_implementation == attention.NAME:
        # transformers has no public way to ask for the default of a class.
        merged.set_attn_implementation("sdpa" if merged._supports_sdpa else "eager")
    experts_forward.restore(merged)
    try:
        values = read_config(base_info(model).folder / "config.json")
    except ModelError:
        pass  # not loaded by load_base, which alone changes noise values
    else:
        values.pop(KEY, None)  # about the files
        original = AutoConfig.for_model(values.pop("model_type"), **values)
        # The language model of a composite checkpoint has a config of its own inside.
        of_text = config.model_type != original.model_type
        restore_noise(config, original.get_text_config() if of_text else original)
    inputs, outputs = merged.get_input_embeddings(), merged.get_output_embeddings()
    if outputs is not None and inputs.weight is not outputs.weight:
        if config.tie_word_embeddings:
            logger.warning(UNTIED)
        config.tie_word_embeddings = False
        config.get_text_config().tie_word_embeddings = False


def restore_noise(config: PreTrainedConfig, original: PreTrainedConfig) -> None:
    """Copy dropout and noise values, which `load_base` sets to zero, from the original config."""
    for name, value in vars(original).items():
        if NOISE_FIELD.search(name) or name == RESCALING_FIELD:
            setattr(config, name, value)
    for part in original.sub_configs:
        ours, theirs = vars(config).get(part), vars(original).get(part)
        if isinstance(ours, PreTrainedConfig) and isinstance(theirs, PreTrainedConfig):
            restore_noise(ours, theirs)
