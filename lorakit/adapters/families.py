"""Layers of some model families that an adapter in PEFT's format cannot name or would not reach."""

from __future__ import annotations

from lorakit.base.families import READ_DIRECTLY

# Names that PEFT 0.21 takes for the experts of transformers 4 when it reads target_modules for
# these families: it would leave the layer of that name (a shared expert, a dense layer) without its
# adapter and say nothing. It reads them in target_parameters, as `<layer>.weight`.
# tests/adapters/test_families.py compares this table with PEFT's.
EXPERT_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("minimax", "minimax_m2", "mixtral"): ("gate", "w1", "w2", "w3"),
    (
        "afmoe",
        "beam",
        "cohere2_moe",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "dots1",
        "ernie4_5_moe",
        "exaone_moe",
        "flex_olmo",
        "glm4_moe",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "hunyuan_v1_moe",
        "longcat_flash",
        "mellum",
        "olmoe",
        "qwen3_moe",
        "qwen3_next",
        "solar_open",
    ): ("down_proj", "gate", "gate_proj", "up_proj"),
}

# {model_type: modules} whose tensors PEFT 0.21 renames to nothing when it loads them, its own too.
LOST_IN_PEFT = {"laguna": ("shared_experts",)}


def why_not_adaptable(model_type: str, module_name: str) -> str | None:
    """Why a linear layer of this family cannot have an adapter; None when it can."""
    *_, leaf = parts = module_name.split(".")
    lost = set(LOST_IN_PEFT.get(model_type, ())) & set(parts)
    if lost:
        return f"PEFT loses the tensors of {lost.pop()} when it loads an adapter of {model_type}"
    if leaf in READ_DIRECTLY.get(model_type, ()):
        return f"{model_type} multiplies with its weight directly"
    return None


def taken_for_experts(model_type: str, module_name: str) -> bool:
    """Whether PEFT would take a linear layer for experts, were it named in target_modules."""
    leaf = module_name.rpartition(".")[2]
    return any(
        model_type in model_types and leaf in names for model_types, names in EXPERT_NAMES.items()
    )
