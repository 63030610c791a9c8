"""EVA (arXiv 2410.07170): A starts as the directions that a layer's inputs vary most in, B zero.

A = the first rows of V^T of the centred inputs X = U S V^T over calibration batches. The ranks are
shared out anew: of all directions of all layers, those with the largest explained variance ratios
S_i^2 / ||X||^2 get a rank each, at most rho times a layer's own; a layer without any is left out.

Where this departs from PEFT 0.21: the SVD of each step is exact, not randomized; batches are read
once, not over and over until all layers have converged; and with rsLoRA `adjust_scaling_factors`
keeps the scaling alpha / sqrt(r), where PEFT keeps alpha / r.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import torch

from lorakit.adapters.activations import InputSpan, input_spans
from lorakit.adapters.contract import InitRequest, Start, Survey
from lorakit.adapters.ranks import module_rank_and_alpha
from lorakit.adapters.targets import Targets, features
from lorakit.base.frozen_linear import is_linear
from lorakit.errors import AdapterError
from lorakit.recipe import EvaConfig, LoraConfig

NAMES = ("eva",)
STARTS_AT_BASE = True
NEEDS_CALIBRATION = True

log = logging.getLogger(__name__)


def prepare(survey: Survey) -> Survey:
    """Measure the inputs of every layer, and share the ranks out."""
    if survey.model.device.type == "meta":
        return survey  # planned with the ranks as configured
    if survey.calibration is None:
        raise AdapterError(
            "init_lora_weights 'eva' looks at the inputs of the layers, and was given none; "
            "possible: attach_adapter(model, config, calibration=batches), each batch a dict with "
            "input_ids (lorakit train takes them from data.train). Give them, or choose another "
            "adapter.init_lora_weights."
        )
    settings = survey.config.eva_config or EvaConfig()
    targets = survey.targets.adapted
    configured = module_rank_and_alpha(targets, survey.config)
    before = {name: given for name, given in configured.items() if is_linear(targets[name])}
    most = {
        name: min(round(r * settings.rho), *features(targets[name]))
        for name, (r, _) in before.items()
    }
    spans = input_spans(
        survey.model,
        most,
        survey.calibration,
        use_label_mask=settings.use_label_mask,
        has_converged=lambda spans: _all_converged(spans, before, most, settings.tau),
    )
    ranks = shared_ranks(spans, before, most)
    kept = {name: r for name, r in ranks.items() if r > 0}
    others = {name: r for name, (r, _) in configured.items() if name not in before}
    log.info(
        "init eva: %d tokens seen; ranks from %d to %d, %d layers left out",
        max(span.num_seen for span in spans.values()),
        min(kept.values()),
        max(kept.values()),
        len(ranks) - len(kept),
    )
    return Survey(
        model=survey.model,
        config=_with_ranks(survey.config, configured, kept | others, settings),
        targets=_without(survey.targets, ranks.keys() - kept.keys()),
        measured={name: _directions(spans[name], r, settings) for name, r in kept.items()},
    )


def initialize(request: InitRequest) -> Start:
    """The measured directions, and zero B."""
    lora_A = request.measured
    if lora_A is None:
        lora_A = torch.empty(request.r, request.in_features)  # on the meta device
    return Start(lora_A, torch.zeros(request.out_features, request.r))


def shared_ranks(
    spans: dict[str, InputSpan], before: dict[str, tuple[int, float]], most: dict[str, int]
) -> dict[str, int]:
    """{module name: rank}: the budget of all ranks goes to the largest explained variance ratios.

    Args:
        spans: {module name: what its inputs span}.
        before: {module name: (rank, alpha)}; their sum is the budget.
        most: {module name: the highest rank it may get}.
    """
    owners, ratios = [], []
    for name, span in spans.items():
        found = span.explained_ratios[: most[name]].tolist()
        owners += [name] * len(found)
        ratios += found
    budget = sum(r for r, _ in before.values())
    best = sorted(range(len(ratios)), key=lambda i: -ratios[i])[:budget]  # ties: first layer first
    ranks = dict.fromkeys(before, 0)
    for i in best:
        ranks[owners[i]] += 1
    return ranks


def _all_converged(
    spans: dict[str, InputSpan],
    before: dict[str, tuple[int, float]],
    most: dict[str, int],
    tau: float,
) -> bool:
    ranks = shared_ranks(spans, before, most)
    return all(bool((spans[name].last_cosines[:r] >= tau).all()) for name, r in ranks.items())


def _directions(span: InputSpan, r: int, settings: EvaConfig) -> torch.Tensor:
    directions = span.directions[:r]
    return directions / span.singular_values[:r, None].sqrt() if settings.whiten else directions


def _with_ranks(
    config: LoraConfig,
    before: dict[str, tuple[int, float]],
    ranks: dict[str, int],
    settings: EvaConfig,
) -> LoraConfig:
    """The config with every layer's rank, and the alpha that keeps its scaling."""
    alphas = {}
    for name, r in ranks.items():
        old, alpha = before[name]
        grown = math.sqrt(r / old) if config.use_rslora else r / old
        alphas[name] = alpha * grown if settings.adjust_scaling_factors else alpha
    return config.model_copy(update={"rank_pattern": ranks, "alpha_pattern": alphas})


def _without(targets: Targets, names: set[str]) -> Targets:
    adapted = {name: module for name, module in targets.adapted.items() if name not in names}
    reasons = dict.fromkeys(names, "its inputs vary too little: eva gave it rank 0")
    return replace(targets, adapted=adapted, left_out=targets.left_out | reasons)
