"""The adapted modules of a config: made here for attaching, for a file's shapes, for merging."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lorakit.adapters import kinds
from lorakit.adapters.contract import AdaptedModule
from lorakit.adapters.modules import AdaptedLinear, Shared, TrainedCopy
from lorakit.adapters.plain import dense_copy
from lorakit.adapters.targets import Targets, module_rank_and_alpha, scaling_of
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
    for name, (r, alpha) in module_rank_and_alpha(targets.adapted, config).items():
        module = targets.adapted[name]
        base = frozen(module)
        scaling = scaling_of(r, alpha, use_rslora=config.use_rslora)
        shape = base.in_features, base.out_features
        kind = make(*shape, r, scaling, device=device, norm_cache=shared.norm_cache)
        modules[name] = AdaptedLinear(
            name, base, kind, dropout=shared.dropout, switch=shared.switch
        ).train(module.training)
    for name, module in targets.trained.items():
        copied = dense_copy(module, device)
        modules[name] = TrainedCopy(name, module, copied, switch=shared.switch)
    return modules


def make_on_meta(targets: Targets, config: LoraConfig) -> dict[str, AdaptedModule]:
    """`make_modules` without data, over stand-ins of the targets: the model stays as it is."""
    meta = torch.device("meta")

    def stand_ins(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        return {name: dense_copy(module, meta) for name, module in modules.items()}

    empty = Targets(stand_ins(targets.adapted), stand_ins(targets.trained), targets.left_out)
    return make_modules(empty, config, device=meta, shared=Shared.fresh())
