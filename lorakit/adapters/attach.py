"""Put an adapter into a model: module instances are replaced, classes and parameter names are not.

model.layers.0.self_attn.q_proj                        AdaptedLinear
model.layers.0.self_attn.q_proj.base_layer             FrozenLinear, the weight as it was
model.layers.0.self_attn.q_proj.adapter.lora_A         float32 (R, I), trained
model.layers.0.mlp.experts.gate_up_proj                AdaptedExperts, where a parameter was
lm_head.trained.weight, lm_head.original.weight        a module of `modules_to_save`
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters import inits
from lorakit.adapters.attached import (
    Attached,
    adapter_disabled,
    attached,
    has_adapter,
    remember,
)
from lorakit.adapters.contract import AdaptedModule, InitRequest, Kind
from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.make import make_modules, make_on_meta
from lorakit.adapters.modules import AdaptedLinear, Shared
from lorakit.adapters.save import PretrainedSaver
from lorakit.adapters.targets import Targets, find_targets
from lorakit.base.frozen_experts import FrozenExperts, put_experts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.storages.dense import DenseWeight
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

__all__ = ["Attached", "adapter_disabled", "attach_adapter", "attached"]

Initialize = Callable[[InitRequest], tuple[torch.Tensor, torch.Tensor]]


def attach_adapter(
    model: PreTrainedModel, config: LoraConfig, *, calibration: Any = None, seed: int = 0
) -> Attached:
    """Attach a trainable adapter to `model`, in place; everything else is frozen.

    Args:
        model: a transformers model, dense or quantized by `load_base`; on the meta device only
            shapes are made.
        config: what to adapt and how.
        calibration: for inits that need data.
        seed: of the init; each module draws from a generator of its own, seeded by this and its
            name.

    Returns:
        What was adapted and what was not, and why.

    Raises:
        AdapterError: the model has an adapter already, or the config does not fit the model. The
            model is unchanged then.
    """
    refuse_second_adapter(model)
    if config.path is not None:
        raise AdapterError(
            f"adapter.path {config.path!r} continues from a saved adapter, attach_adapter makes a "
            "new one; call lorakit.load_adapter(model, path), or remove path."
        )
    initialize = inits.init(config.init_lora_weights).initialize
    targets = find_targets(model, config)
    if config.ensure_weight_tying and not any(t.tied_to for t in targets.rows.values()):
        raise AdapterError(
            "ensure_weight_tying cannot take effect: no trained row of the embedding is shared "
            "with a tied output head. Remove adapter.ensure_weight_tying."
        )
    return attach_targets(model, config, targets, initialize, calibration=calibration, seed=seed)


def attach_targets(
    model: PreTrainedModel,
    config: LoraConfig,
    targets: Targets,
    initialize: Initialize,
    *,
    calibration: Any = None,
    seed: int = 0,
) -> Attached:
    """`attach_adapter` with the modules already found, and any init.

    Raises:
        AdapterError: the config does not fit the modules; the model is unchanged then.
    """
    biases = trained_biases(model, targets, config.bias)
    make_on_meta(targets, config)  # raises what the real ones would, and changes nothing
    shared = Shared.fresh(config.lora_dropout)
    model.requires_grad_(False)
    modules = make_modules(targets, config, device=model.device, shared=shared)
    for name, module in modules.items():
        generator = _generator(seed, name)
        if isinstance(module, AdaptedLinear):  # the others start in one way only
            base, kind = module.base_layer, module.adapter
            shape = base.in_features, base.out_features
            request = InitRequest(name, *shape, kind.r, kind.scaling, base, generator, calibration)
            _start(kind, initialize, request)
        elif isinstance(module, AdaptedExperts):
            module.start_each(initialize, generator)
        else:
            module.start(generator)
    replaced = targets.modules()
    _replace(model, {id(replaced[name]): module for name, module in modules.items()})
    for name, module in modules.items():
        if isinstance(module, AdaptedExperts):  # what they replace may be a parameter
            put_experts(model, name, module)
    value = Attached(
        config=config,
        adapted={name: m.facts for name, m in modules.items() if m.facts is not None},
        not_adapted=targets.left_out,
        modules=modules,
        biases={name: (bias, bias.detach().clone()) for name, bias in biases.items()},
        total=count_parameters(model),
        dropout=shared.dropout,
        norm_cache=shared.norm_cache,
        switch=shared.switch,
    )
    for bias in biases.values():
        bias.requires_grad_(True)
    remember(model, value)
    vars(model)["save_pretrained"] = PretrainedSaver(model)
    return value


def refuse_second_adapter(model: PreTrainedModel) -> None:
    """Raise AdapterError when `model` has an adapter."""
    if has_adapter(model):
        raise AdapterError(
            f"this {type(model).__name__} has an adapter already; possible is one at a time. "
            "Merge it with lorakit.merge(model), or load the base again."
        )


def count_parameters(model: nn.Module) -> int:
    """Parameters of `model`, tied ones once; packed weights count as what they stand for."""
    packed = sum(
        module.stored.shape.numel()
        for module in model.modules()
        if isinstance(module, FrozenLinear | FrozenExperts)
        and not isinstance(module.stored, DenseWeight)
    )
    return packed + sum(parameter.numel() for parameter in model.parameters())


def trained_biases(model: nn.Module, targets: Targets, which: str) -> dict[str, nn.Parameter]:
    """{name once attached: base bias that trains}: all of the model, or those of the adapted
    layers.

    They keep the base's dtype, as in PEFT.

    Raises:
        AdapterError: biases were asked for and there are none.
    """
    if which == "none":
        return {}
    biases = {}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if leaf != "bias":
            continue
        if owner in targets.rows and which == "all":
            raise AdapterError(
                f"bias 'all' would train {name!r} beside rows of {owner}, which PEFT's format has "
                "no name for; possible: bias 'lora_only', or without trainable_token_indices for "
                "it. Fix one of the two."
            )
        if owner in targets.adapted:
            biases[f"{owner}.base_layer.bias"] = parameter
        elif which == "all" and not targets.is_trained(owner):
            biases[name] = parameter
    if not biases:
        raise AdapterError(
            f"bias {which!r} trains nothing: there is no bias in this model's "
            f"{'modules' if which == 'all' else 'adapted layers'}. Set adapter.bias to none."
        )
    return biases


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def _start(adapter: Kind, initialize: Initialize, request: InitRequest) -> None:
    if not adapter.lora_A.is_meta:
        lora_A, lora_B = initialize(request)
        adapter.lora_A.copy_(lora_A)
        adapter.lora_B.copy_(lora_B)
    adapter.begin(request.base)


def _replace(model: nn.Module, replaced: Mapping[int, nn.Module]) -> None:
    """Put the new modules at every place of the old ones (a module may stand at several)."""
    for parent in list(model.modules()):
        if isinstance(parent, AdaptedModule):
            continue
        for child_name, child in list(parent._modules.items()):
            if id(child) in replaced:
                setattr(parent, child_name, replaced[id(child)])
