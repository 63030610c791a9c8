"""What a recipe may not say whose completions come from a vLLM server, and what an adapter may not
be that it is given.

By vLLM's own words (vllm/lora/peft_helper.py), and by what it leaves unread without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lorakit.recipe.rules.fault import Fault, no_effect
from lorakit.recipe.rules.grpo import GRPO
from lorakit.recipe.rules.urls import url_rules

if TYPE_CHECKING:
    from lorakit.recipe.sections.grpo import GRPOSection
    from lorakit.recipe.sections.recipe import Recipe

# Of an adapter config, in PEFT's names: why vLLM cannot apply it.
REFUSED = {
    "use_dora": "vLLM does not have DoRA",
    "modules_to_save": "vLLM has no modules that are trained in full",
    "bias": "vLLM does not read the biases of an adapter",
    "rank_pattern": "vLLM scales every module by the one r, and would be another policy",
    "alpha_pattern": "vLLM scales every module by the one lora_alpha, and would be another policy",
    "trainable_token_indices": "vLLM does not read rows of tokens",
    "target_parameters": "experts in this form were not tried with vLLM",
}
NOTHING: tuple[object, ...] = (None, False, "none", [], {})


def refused_by_vllm(config: Mapping[str, Any]) -> dict[str, str]:
    """{option: why vLLM cannot apply an adapter that has it}.

    Args:
        config: of an adapter, in PEFT's names.
    """
    return {name: why for name, why in REFUSED.items() if config.get(name) not in NOTHING}


def vllm_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of `grpo.use_vllm` and of the options of its server."""
    grpo, adapter = recipe.grpo, recipe.adapter
    if recipe.train.method != GRPO:  # whatever it says has no effect
        return
    if not grpo.use_vllm:
        for name in sorted(n for n in grpo.model_fields_set if n.startswith("vllm_")):
            yield no_effect(("grpo", name), "grpo.use_vllm is false", "set it to true")
        return
    remedy = "Possible: LoRA of one rank and alpha; or set grpo.use_vllm to false"
    values = adapter.model_dump() | {"use_dora": adapter.kind_name == "dora"}
    for name, why in refused_by_vllm(values).items():
        key = "kind" if name == "use_dora" and adapter.kind is not None else name
        yield Fault(("adapter", key), f"cannot go with grpo.use_vllm: {why}. {remedy}")
    if adapter.init_lora_weights == "loftq":
        yield Fault(
            ("adapter", "init_lora_weights"),
            "'loftq' cannot go with grpo.use_vllm: it corrects how this base is stored, and vLLM "
            f"stores its own copy. {remedy}",
        )
    rho = 2.0 if adapter.eva_config is None else adapter.eva_config.rho
    if adapter.init_lora_weights == "eva" and rho != 1:
        yield Fault(
            ("adapter", "init_lora_weights"),
            "'eva' gives every module a rank of its own, which cannot go with grpo.use_vllm: "
            f"{REFUSED['rank_pattern']}. Set adapter.eva_config.rho to 1. {remedy}",
        )
    yield from url_rules(
        ("grpo", "vllm_server_base_url"),
        grpo.vllm_server_base_url,
        "vllm_api_key_env",
        grpo.vllm_api_key_env,
        "http://localhost:8000",
    )
    yield from _logprobs(grpo)


def _logprobs(grpo: GRPOSection) -> Iterator[Fault]:
    if not grpo.vllm_importance_sampling_correction:
        if grpo.rollout_importance_sampling_mode is not None:
            yield no_effect(
                ("grpo", "rollout_importance_sampling_mode"),
                "grpo.vllm_importance_sampling_correction is false",
                "set that to true",
            )
    elif grpo.temperature != 1 and (grpo.top_p < 1 or grpo.top_k is not None or grpo.min_p):
        yield Fault(
            ("grpo", "temperature"),
            f"{grpo.temperature:g} together with top_p, top_k or min_p cannot go with "
            "grpo.use_vllm: vLLM gives log-probabilities before or after all of these, and what "
            "trains is the policy at the temperature, of all tokens. Possible: temperature 1, or "
            "no top_p, top_k or min_p, or grpo.vllm_importance_sampling_correction: false",
        )
