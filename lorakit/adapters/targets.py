"""Which modules of a model an adapter config names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.expert_targets import (
    all_experts,
    named_as_parameters,
    not_for_parameters,
    refuse_what_experts_lack,
)
from lorakit.adapters.families import taken_for_experts, why_not_adaptable
from lorakit.adapters.layer_numbers import limit_layers
from lorakit.adapters.left_alone import reasons_of
from lorakit.adapters.module_names import leaf, linear_names, nearest
from lorakit.adapters.patterns import NamePattern, is_below, matches_list
from lorakit.adapters.row_targets import RowsTarget, find_rows
from lorakit.adapters.saved_modules import find_modules_to_save
from lorakit.adapters.word_embeddings import is_embedding, why_unfit
from lorakit.base.frozen_experts import FrozenExperts, parameter_name
from lorakit.base.frozen_linear import FrozenLinear, is_conv1d, is_linear
from lorakit.base.packing import is_router
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Targets:
    """Modules by name: those to adapt, those to train in full, those of which rows train, and why
    others are left alone. `as_parameters` are the linear layers that PEFT's format names by their
    weight.
    """

    adapted: dict[str, nn.Module]
    trained: dict[str, nn.Module]
    left_out: dict[str, str]
    rows: dict[str, RowsTarget]
    as_parameters: frozenset[str]

    def modules(self) -> dict[str, nn.Module]:
        """Every module that something is to stand in for."""
        rows = {name: target.module for name, target in self.rows.items()}
        return self.adapted | self.trained | rows

    def map(self, replace: Callable[[nn.Module], nn.Module]) -> Targets:
        """The same targets over other modules."""
        return Targets(
            {name: replace(module) for name, module in self.adapted.items()},
            {name: replace(module) for name, module in self.trained.items()},
            self.left_out,
            {
                n: RowsTarget(replace(t.module), t.token_ids, t.tied_to)
                for n, t in self.rows.items()
            },
            self.as_parameters,
        )

    def target_parameters(self) -> dict[str, str]:
        """{adapted module: parameter} of what PEFT's format names as parameters."""
        experts = {
            name: parameter_name(name, module.layout)
            for name, module in self.adapted.items()
            if isinstance(module, FrozenExperts)
        }
        return experts | {name: f"{name}.weight" for name in self.as_parameters}

    def pattern_names(self) -> dict[str, str]:
        """{adapted module: the name that patterns are matched against}: of its parameter, where
        PEFT's format names that.
        """
        return {name: name for name in self.adapted} | self.target_parameters()

    def is_trained(self, name: str) -> bool:
        """Whether the module or parameter is part of a module trained in full."""
        return is_below(name, self.trained)


def find_targets(model: PreTrainedModel, config: LoraConfig) -> Targets:
    """The modules `config` names.

    Returns:
        `left_out` holds the reason for every linear layer (by module name) and every other
        parameter of two or more dimensions (by parameter name) that is not adapted.

    Raises:
        AdapterError: an option matches nothing, or names something that cannot be adapted.
    """
    experts = all_experts(model)
    modules = {n: m for n, m in model.named_modules() if n and not is_below(n, experts)}
    trained = find_modules_to_save(model, config.modules_to_save or [])
    rows = find_rows(model, config, trained)
    left_out = {n: "modules_to_save" for n in (*modules, *experts) if is_below(n, trained)}
    left_out |= dict.fromkeys(
        _excluded(modules, experts, config.exclude_modules), "exclude_modules"
    )
    free = {name: module for name, module in modules.items() if name not in left_out}
    is_all = isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR
    if is_all:
        adapted, reasons = _all_linear(model, free, config)
        left_out |= reasons
    else:
        adapted = _named(modules, free, config, model.config.model_type)
    if is_all and config.target_parameters is None:
        adapted |= {path: module for path, module in experts.items() if path not in left_out}
    adapted, reasons = limit_layers(adapted, config)
    left_out |= reasons
    both = sorted(adapted.keys() & rows.keys())
    if both:
        raise AdapterError(
            f"{both[0]!r} is named by target_modules and by trainable_token_indices; possible is "
            "one of the two for a module. Remove it from one of them."
        )
    model_type = model.config.model_type
    named = _named_as_parameters(modules, experts, config.target_parameters or [], trained)
    linears = {n for n, m in adapted.items() if is_linear(m) and taken_for_experts(model_type, n)}
    as_parameters = frozenset(linears | named.keys() - experts.keys())
    adapted |= named
    refuse_what_experts_lack(as_parameters | adapted.keys() & experts.keys(), config)
    _check_tying(model, config, (adapted.keys() - experts.keys()) | trained.keys())
    if not adapted:
        raise AdapterError(
            f"target_modules {config.target_modules!r} leave nothing to adapt once exclude_modules "
            f"{config.exclude_modules!r}, modules_to_save {config.modules_to_save!r} and "
            f"layers_to_transform {config.layers_to_transform!r} are applied. This model has: "
            f"{linear_names(modules)}. Fix adapter.target_modules."
        )
    reasons = reasons_of(model, adapted, trained, left_out, rows, experts)
    return Targets(adapted, trained, reasons, rows, as_parameters)


def _named_as_parameters(
    modules: Mapping[str, nn.Module],
    experts: Mapping[str, FrozenExperts],
    wanted: list[str],
    trained: Collection[str],
) -> dict[str, nn.Module]:
    """What `target_parameters` names; as in PEFT, exclude_modules and layers_to_transform do not
    concern it.
    """
    linears = {n: m for n, m in modules.items() if is_linear(m) and not is_conv1d(m)}
    named = named_as_parameters(experts, linears, wanted)
    both = sorted(path for path in named if is_below(path, trained))
    if both:
        raise AdapterError(
            f"{both[0]!r} is named by target_parameters and is part of modules_to_save; possible "
            "is one of the two. Remove it from one of them."
        )
    return named


def _check_tying(model: PreTrainedModel, config: LoraConfig, changed: Collection[str]) -> None:
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not config.ensure_weight_tying or head is None or head.weight is not inputs.weight:
        return
    untied = [name for name in changed if model.get_submodule(name) in (inputs, head)]
    if untied:
        raise AdapterError(
            f"ensure_weight_tying asks that {untied[0]} and what it is tied to train as one, which "
            "lorakit has for trainable_token_indices only. Possible: without it, where the other "
            "of the two keeps the frozen weight, and a merged model is untied."
        )


def features(module: nn.Module) -> tuple[int, int]:
    """(in_features, out_features) of a linear layer; an embedding's inputs are one-hot: (V, D)."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    assert isinstance(module, nn.Linear | FrozenLinear | FrozenExperts)
    return module.in_features, module.out_features


def _all_linear(
    model: PreTrainedModel, free: Mapping[str, nn.Module], config: LoraConfig
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    head, text = model.get_output_embeddings(), _text_model(model)
    adapted: dict[str, nn.Module] = {}
    reasons: dict[str, str] = {}
    for name, module in free.items():
        if module is head:
            reasons[name] = "output head"
        elif is_linear(module) and text is not None and not is_below(name, [text]):
            reasons[name] = f"outside of {text}: text does not pass it"
        elif is_linear(module) and is_router(name):
            reasons[name] = "expert router"
        elif is_linear(module):
            reason = _why_unfit(module, model.config.model_type, name, config)
            if reason is None:
                adapted[name] = module
            else:
                reasons[name] = reason
    return adapted, reasons


def _text_model(model: PreTrainedModel) -> str | None:
    """The name of the part that reads text, of a model that takes pictures or sound too; None: all
    of it does."""
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    return next(
        (name for name, module in model.named_modules() if name and module is decoder), None
    )


def _named(
    modules: Mapping[str, nn.Module],
    free: Mapping[str, nn.Module],
    config: LoraConfig,
    model_type: str,
) -> dict[str, nn.Module]:
    wanted = config.target_modules
    if isinstance(wanted, str):
        pattern = NamePattern(wanted, "target_modules")
        adapted = {name: module for name, module in free.items() if pattern.matches_whole(name)}
        unmatched = [] if any(pattern.matches_whole(name) for name in modules) else [wanted]
    else:
        adapted = {name: module for name, module in free.items() if matches_list(name, wanted)}
        unmatched = [w for w in wanted if not any(matches_list(name, [w]) for name in modules)]
        unmatched = unmatched or ([] if wanted or config.target_parameters else ["[]"])
    if unmatched:
        raise AdapterError(
            f"target_modules {unmatched!r} match no module; this model has: "
            f"{linear_names(modules)}.{nearest(unmatched, modules)} Fix adapter.target_modules."
        )
    reasons = {name: _why_unfit(m, model_type, name, config) for name, m in adapted.items()}
    unfit = {name: reason for name, reason in reasons.items() if reason is not None}
    if unfit:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(unfit.items())[:5])
        raise AdapterError(
            f"target_modules {wanted!r} name {len(unfit)} modules that cannot be adapted "
            f"({listed}). Linear layers here: {linear_names(modules)}. Name those, or leave the "
            "others out with adapter.exclude_modules."
        )
    return adapted


def _why_unfit(module: nn.Module, model_type: str, name: str, config: LoraConfig) -> str | None:
    if is_linear(module):
        option = not_for_parameters(config)
        if option is not None and taken_for_experts(model_type, name):
            return (
                f"PEFT takes {leaf(name)} for the experts of {model_type}, which have no {option}"
            )
        return why_not_adaptable(model_type, name)
    if is_embedding(module):
        return why_unfit(module)
    return f"a {type(module).__name__}, no plain linear layer or embedding"


def _excluded(
    modules: Mapping[str, nn.Module],
    experts: Collection[str],
    excluded: str | list[str] | None,
) -> set[str]:
    if not excluded:
        return set()
    known = [*modules, *experts]
    if isinstance(excluded, str):
        pattern = NamePattern(excluded, "exclude_modules")
        names = {name for name in known if pattern.matches_whole(name)}
        unmatched = [] if names else [excluded]
    else:
        names = {name for name in known if matches_list(name, excluded)}
        unmatched = [e for e in excluded if not any(matches_list(name, [e]) for name in known)]
    if unmatched:
        raise AdapterError(
            f"exclude_modules {unmatched!r} match no module; this model has: "
            f"{linear_names(modules)}.{nearest(unmatched, modules)} Fix adapter.exclude_modules."
        )
    # The module around experts stands for them.
    return names | {path for path in experts if is_below(path, names)}
