"""Put an adapter into a model: module instances are replaced, classes and parameter names are not.

model.layers.0.self_attn.q_proj                        AdaptedLinear
model.layers.0.self_attn.q_proj.base_layer             FrozenLinear, the weight as it was
model.layers.0.self_attn.q_proj.adapter.lora_A         float32 (R, I), trained
model.layers.0.mlp.experts.gate_up_proj                AdaptedExperts, where a parameter was
lm_head.trained.weight, lm_head.original.weight        a module of `modules_to_save`
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters import inits
from lorakit.adapters.attached import (
    DEFAULT_NAME,
    Adapters,
    Attached,
    StartError,
    adapter_disabled,
    attached,
    has_adapter,
    remember,
)
from lorakit.adapters.contract import Survey
from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.make import make_modules
from lorakit.adapters.modules import AdaptedLinear, Shared
from lorakit.adapters.save import PretrainedSaver
from lorakit.adapters.several import replace_modules, room_for
from lorakit.adapters.starting import Initialize, Starter, log_start_errors, module_generator
from lorakit.adapters.targets import Targets, find_targets
from lorakit.base.frozen_experts import FrozenExperts, put_experts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.storages.dense import DenseWeight
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

__all__ = ["Attached", "adapter_disabled", "attach_adapter", "attached"]

Calibration = Iterable[Mapping[str, torch.Tensor]]


def attach_adapter(
    model: PreTrainedModel,
    config: LoraConfig,
    *,
    calibration: Calibration | None = None,
    seed: int = 0,
    name: str = DEFAULT_NAME,
) -> Attached:
    """Attach a trainable adapter to `model`, in place; everything else is frozen.

    A model may have several, by name. The new one is in use: it is what the model computes, trains,
    saves and merges until `use_adapter` switches to another.

    Args:
        model: a transformers model, dense or quantized by `load_base`; on the meta device only
            shapes are made.
        config: what to adapt and how.
        calibration: batches for inits that need data (eva): each what `model(**batch)` takes, at
            least `input_ids`; `attention_mask` and `labels` say which tokens count.
        seed: of the init; each module draws from a generator of its own, seeded by this and its
            name.
        name: of the adapter, for `use_adapter`.

    Returns:
        What was adapted and what was not, and why.

    Raises:
        AdapterError: the model has an adapter of that name, or one that can only stand alone, or
            the config does not fit the model. The model is unchanged then.
    """
    with room_for(model, name):
        return _attach(model, config, calibration, seed)


def _attach(
    model: PreTrainedModel, config: LoraConfig, calibration: Calibration | None, seed: int
) -> Attached:
    if config.path is not None:
        raise AdapterError(
            f"adapter.path {config.path!r} continues from a saved adapter, attach_adapter makes a "
            "new one; call lorakit.load_adapter(model, path), or remove path."
        )
    init = inits.init(config.init_lora_weights)
    if calibration is not None and not init.NEEDS_CALIBRATION:
        raise AdapterError(
            f"calibration cannot take effect: init_lora_weights {config.init_lora_weights!r} looks "
            "at no data; possible: eva. Leave it out, or choose that init."
        )
    targets = find_targets(model, config)
    if config.ensure_weight_tying and not any(t.tied_to for t in targets.rows.values()):
        raise AdapterError(
            "ensure_weight_tying cannot take effect: no trained row of the embedding is shared "
            "with a tied output head. Remove adapter.ensure_weight_tying."
        )
    _refuse_linear_options(config, targets)
    survey = init.prepare(Survey(model, config, targets, calibration))
    return attach_targets(
        model,
        survey.config,
        survey.targets,
        init.initialize,
        measured=survey.measured,
        seed=seed,
    )


def _refuse_linear_options(config: LoraConfig, targets: Targets) -> None:
    """Raise AdapterError for options of linear layers where there are none of them.

    Experts refuse what they lack themselves.
    """
    if not all(isinstance(module, nn.Embedding) for module in targets.adapted.values()):
        return
    given = {
        f"init_lora_weights {config.init_lora_weights!r}": config.init_lora_weights is not True,
        f"lora_dropout {config.lora_dropout:g}": config.lora_dropout > 0,
    }
    without_effect = [option for option, is_given in given.items() if is_given]
    if without_effect:
        raise AdapterError(
            f"{' and '.join(without_effect)} cannot take effect: the only targets are embeddings "
            f"({', '.join(targets.adapted)}), which start in one way and drop nothing. Possible: "
            "linear layers beside them. Remove the option, or add to adapter.target_modules."
        )


def attach_targets(
    model: PreTrainedModel,
    config: LoraConfig,
    targets: Targets,
    initialize: Initialize,
    *,
    measured: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
) -> Attached:
    """`attach_adapter` with the modules already found, and any init.

    Args:
        measured: {module name: what the init's `prepare` found out}.

    Raises:
        AdapterError: the config does not fit the modules, or the init needs an original weight that
            is gone; the model is unchanged then.
    """
    biases = trained_biases(model, targets, config.bias)
    shared = Shared.fresh(config.lora_dropout)
    starter = Starter(model, config, initialize, measured or {}, seed=seed)
    start_errors: dict[str, StartError] = {}
    with _frozen_once_done(model):
        modules = make_modules(targets, config, device=model.device, shared=shared)
        for name, module in modules.items():
            if isinstance(module, AdaptedLinear):  # the others start in one way only
                error = starter.start(module)
                if error is not None:
                    start_errors[name] = error
            elif isinstance(module, AdaptedExperts):
                starter.start_experts(module)
            else:
                module.start(module_generator(seed, name))
    log_start_errors(config.init_lora_weights, start_errors)
    replaced = targets.modules()
    for name, original in replaced.items():
        if isinstance(original, FrozenExperts):  # where a parameter may be
            put_experts(model, name, original)
    replace_modules(model, {id(replaced[name]): module for name, module in modules.items()})
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
        start_errors=start_errors,
        replaced=replaced,
    )
    for bias in biases.values():
        bias.requires_grad_(True)
    remember(model, Adapters({value.name: value}, value.name))
    vars(model)["save_pretrained"] = PretrainedSaver(model)
    return value


def refuse_second_adapter(model: PreTrainedModel) -> None:
    """Raise AdapterError when `model` has an adapter."""
    if has_adapter(model):
        raise AdapterError(
            f"this {type(model).__name__} has an adapter already; possible is its base. "
            "Give a base without an adapter."
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
    biases = biases_of(model, targets, which)
    if not biases and which != "none":
        raise AdapterError(
            f"bias {which!r} trains nothing: there is no bias in this model's "
            f"{'modules' if which == 'all' else 'adapted layers'}. Set adapter.bias to none."
        )
    return biases


def biases_of(model: nn.Module, targets: Targets, which: str) -> dict[str, nn.Parameter]:
    """As `trained_biases`, where there may be none.

    Raises:
        AdapterError: biases that PEFT's format has no name for.
    """
    biases: dict[str, nn.Parameter] = {}
    if which == "none":
        return biases
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
    return biases


@contextmanager
def _frozen_once_done(model: nn.Module) -> Iterator[None]:
    """Freeze every parameter; after an error each is again as it was."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        yield
    except BaseException:
        for parameter, trained in before.items():
            parameter.requires_grad_(trained)
        raise
