"""Adapters that PEFT made on tiny bases, every variant, and what PEFT says they change."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import Embedding, LoraLayer, ParamWrapper
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests import tiny
from tests.adapters.peers import load_in_peft, make_in_peft, save_from_peft

TENSORS = "adapter_model.safetensors"
FAMILY_OF = {"conv1d": "gpt2", "experts": "qwen3_moe"}


@dataclass(frozen=True)
class Variant:
    """A config of PEFT's; `here` says whether lorakit can attach it to a model."""

    options: dict[str, Any]
    family: str = "qwen2"
    dtype: torch.dtype | None = None
    here: bool = True
    seed: int = field(default=0)


VARIANTS = {
    "plain": Variant({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj"]}),
    "another": Variant({"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]}),
    "rslora": Variant({"r": 8, "lora_alpha": 5, "use_rslora": True, "target_modules": ["v_proj"]}),
    "patterns": Variant(
        {
            "r": 4,
            "lora_alpha": 7,
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 3},
            "alpha_pattern": {"v_proj": 5, "q_proj": 11},
        }
    ),
    "rslora with patterns": Variant(
        {
            "r": 4,
            "lora_alpha": 3,
            "use_rslora": True,
            "target_modules": ["q_proj", "up_proj"],
            "rank_pattern": {"up_proj": 6},
            "alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 5},
        }
    ),
    "regex": Variant({"r": 2, "target_modules": r".*\.layers\.0\..*(q|v)_proj"}),
    "one layer": Variant(
        {"r": 5, "target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1]}
    ),
    "excluded": Variant(
        {"r": 4, "target_modules": "all-linear", "exclude_modules": r".*layers\.1.*"}
    ),
    "bfloat16": Variant(
        {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj"]}, dtype=torch.bfloat16
    ),
    "float16": Variant({"r": 4, "target_modules": ["k_proj"]}, dtype=torch.float16),
    "higher than the layer": Variant({"r": 24, "target_modules": ["k_proj", "q_proj"]}),
    "lora_bias": Variant(
        {"r": 4, "lora_alpha": 9, "target_modules": ["q_proj"], "lora_bias": True}, here=False
    ),
    "embedding": Variant({"r": 4, "lora_alpha": 6, "target_modules": ["embed_tokens", "q_proj"]}),
    "conv1d": Variant(
        {"r": 4, "lora_alpha": 3, "target_modules": ["c_attn"], "fan_in_fan_out": True},
        family="gpt2",
    ),
    "experts": Variant(
        {
            "r": 3,
            "lora_alpha": 5,
            "target_modules": ["q_proj"],
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
            "rank_pattern": {"q_proj": 2},
        },
        family="qwen3_moe",
        here=False,
    ),
}

TINY: dict[str, dict[str, object]] = {
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "head_dim": 8,
    }
}


def base(family: str) -> PreTrainedModel:
    """The tiny base that the adapters of a family were made on."""
    return tiny.model(family, **TINY.get(family, {}))


def make(variant: Variant, folder: Path, *, seed: int = 0, **options: Any) -> Path:
    """Save an adapter of this variant, every parameter random."""
    config = peft.LoraConfig(**({"task_type": "CAUSAL_LM"} | variant.options | options))
    model = make_in_peft(base(variant.family), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((0.1 * noise).to(parameter.dtype))
    save_from_peft(model, folder)
    if variant.dtype is not None:
        tensors = load_file(folder / TENSORS)
        save_file({k: v.to(variant.dtype) for k, v in tensors.items()}, folder / TENSORS)
    return folder


def deltas(family: str, folder: Path) -> dict[str, torch.Tensor]:
    """{module name: the change of its weight (and bias, as `<module> bias`)}, float64, by PEFT."""
    model = load_in_peft(base(family), folder).double()
    found = {}
    for name, module in model.base_model.model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        name = name.replace(".base_layer", "")
        if isinstance(module, ParamWrapper):
            name = f"{name}.{module.parameter_name}"
        delta = module.get_delta_weight("default").detach()
        found[name] = delta
        bias = None if isinstance(module, Embedding) else module.lora_B["default"].bias
        if bias is not None:
            found[f"{name} bias"] = bias.detach() * module.scaling["default"]
    return found
