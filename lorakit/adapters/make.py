"""The adapted modules of a config: made here for attaching, for a file's shapes, for merging."""

from __future__ import annotations

import torch
from torch import nn

from lorakit.adapters import kinds
from lorakit.adapters.contract import AdaptedModule
from lorakit.adapters.embedding import AdaptedEmbedding
from lorakit.adapters.expert_targets import nesting_depths
from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.modules import AdaptedLinear, Shared, TrainedCopy
from lorakit.adapters.plain import dense_copy
from lorakit.adapters.ranks import module_rank_and_alpha, scaling_of
from lorakit.adapters.targets import Targets, features
from lorakit.adapters.token_rows import EmbeddingRows, HeadRows
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import frozen
from lorakit.recipe import LoraConfig


def make_modules(
    targets: Targets, config: LoraConfig, *, device: torch.device, shared: Shared
) -> dict[str, AdaptedModule]:
    """What is to stand in the model at the place of each target; the model is not changed yet.

    Args:
        targets: the modules by name. They become part of the adapted modules, frozen.
        config: how they are adapted.
        device: where the trained parameters are made; `meta`: shapes only.
        shared: the state of the model's adapted modules.

    Returns:
        {module name: adapted module}, low-rank ones first, all at zero until they are started.
    """
    make = kinds.kind(config.kind_name)
    modules: dict[str, AdaptedModule] = {}
    experts = {n: m.layout for n, m in targets.adapted.items() if isinstance(m, FrozenExperts)}
    depths = nesting_depths(experts)
    named = targets.pattern_names()
    ranks = module_rank_and_alpha(named.values(), config)
    for name, module in targets.adapted.items():
        r, alpha = ranks[named[name]]
        scaling = scaling_of(r, alpha, use_rslora=config.use_rslora)
        if isinstance(module, FrozenExperts):
            modules[name] = AdaptedExperts(
                name,
                module,
                r,
                scaling,
                depth=depths[name],
                device=device,
                switch=shared.switch,
            )
            continue
        shape = features(module)
        kind = make(*shape, r, scaling, device=device, norm_cache=shared.norm_cache)
        if isinstance(module, nn.Embedding):
            modules[name] = AdaptedEmbedding(name, module, kind, switch=shared.switch)
        else:
            modules[name] = AdaptedLinear(
                name,
                frozen(module),
                kind,
                dropout=shared.dropout,
                switch=shared.switch,
                as_parameter=name in targets.as_parameters,
            ).train(module.training)
    modules |= _token_rows(targets, device, shared)
    for name, module in targets.trained.items():
        modules[name] = TrainedCopy(name, module, dense_copy(module, device), switch=shared.switch)
    return modules


def _token_rows(
    targets: Targets, device: torch.device, shared: Shared
) -> dict[str, EmbeddingRows | HeadRows]:
    modules: dict[str, EmbeddingRows | HeadRows] = {}
    for name, target in targets.rows.items():
        if isinstance(target.module, nn.Embedding):
            tied = tuple(n for n, other in targets.rows.items() if other.tied_to == name)
            modules[name] = EmbeddingRows(
                name,
                target.module,
                target.token_ids,
                tied=tied,
                device=device,
                switch=shared.switch,
            )
        else:
            rows = None if target.tied_to is None else modules[target.tied_to].rows
            modules[name] = HeadRows(
                name,
                frozen(target.module),
                target.token_ids,
                rows=rows,
                device=device,
                switch=shared.switch,
            )
    return modules


def make_on_meta(targets: Targets, config: LoraConfig) -> dict[str, AdaptedModule]:
    """`make_modules` without data, over stand-ins of the targets: the model stays as it is."""
    meta = torch.device("meta")
    stand_ins = targets.map(lambda module: dense_copy(module, meta))
    return make_modules(stand_ins, config, device=meta, shared=Shared.fresh())
