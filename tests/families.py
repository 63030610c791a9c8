"""Tiny random models of many causal-LM families: the table that law tests of all rooms loop over.

`FAMILIES[model_type]` holds what the tiny config of that family needs beyond `COMMON`. Fields that
change the logits (soft caps, scales), windows and mixed layer types are set to values that matter,
so that a law which ignores them fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from lorakit.base import attention
from lorakit.base import config as base_config
from tests import tiny

COMMON: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 4,
}

# Set wherever the family's config has the field.
WHERE_KNOWN: dict[str, Any] = {
    "head_dim": 8,
    "sliding_window": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "logits_scaling": 4.0,
    "final_logit_softcapping": 0.5,
    "attn_logit_softcapping": 2.0,
    "logit_scale": 0.3,
    "lm_head_multiplier": 0.7,
    "first_k_dense_replace": 1,
}

LATENT: dict[str, Any] = {
    "head_dim": None,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
HYBRID_LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": WINDOWED,
    "apertus": {},
    "arcee": {},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": {**LATENT, "n_group": 1, "topk_group": 1},
    "bamba": {**MAMBA2, "attn_layer_indices": [1]},
    "beam": {"mlp_layer_types": ["dense", "sparse"], "n_group": 1, "topk_group": 1},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 4},
    "cohere": {},
    "cohere2": WINDOWED,
    "cohere2_moe": WINDOWED,
    "cwm": WINDOWED,
    "deepseek_v2": {**LATENT, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "deepseek_v3": {**LATENT, "n_group": 1, "topk_group": 1},
    "diffllama": {},
    "dots1": {"n_group": 1, "topk_group": 1, "n_shared_experts": 1, **WINDOWED},
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2},
    "exaone4": WINDOWED,
    "exaone_moe": WINDOWED,
    "falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "falcon_h1": {**MAMBA2, "mamba_d_ssm": 64},
    "falcon_mamba": {"state_size": 8, "time_step_rank": 4},
    "flex_olmo": {},
    "flint": {"mlp_only_layers": [0]},
    "gemma": {},
    "gemma2": WINDOWED,
    "gemma3_text": WINDOWED,
    "gemma3n_text": {
        **WINDOWED,
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 400,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4_text": {
        **WINDOWED,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
        "head_dim": None,
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 400,
        "hidden_size_per_layer_input": 8,
    },
    "gemma4_unified_text": {
        **WINDOWED,
        "head_dim": None,
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 400,
        "hidden_size_per_layer_input": 8,
    },
    "glm": {},
    "glm4": {},
    "glm4_moe": {"n_group": 1, "topk_group": 1},
    "glm4_moe_lite": {**LATENT, "n_group": 1, "topk_group": 1},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gpt_neox": {},
    "gpt_oss": WINDOWED,
    "gptj": {"rotary_dim": 4},
    "granite": {},
    "granite_swa": WINDOWED,
    "granitemoe": {},
    "granitemoe_swa": WINDOWED,
    "granitemoehybrid": {**MAMBA2, "layer_types": ["mamba", "attention"]},
    "granitemoeshared": {},
    "helium": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {},
    "hy_v3": {},
    "hyperclovax": {},
    "internlm3": {},
    "jais2": {},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "jetmoe": {},
    "laguna": {},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama": {},
    "llama4_text": {
        "attention_chunk_size": 8,
        "intermediate_size_mlp": 64,
        "layer_types": ["chunked_attention", "full_attention"],
    },
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "mellum": {},
    "mimo_v2_flash": WINDOWED,
    "minicpm3": LATENT,
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "minimax_m2": {},
    "ministral": WINDOWED,
    "ministral3": {},
    "mistral": {},
    "mixtral": {},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "moe"],
        "num_hidden_layers": 3,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": WINDOWED,
    "olmo_hybrid": HYBRID_LINEAR,
    "olmoe": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "qwen2": {"use_sliding_window": True, **WINDOWED},
    "qwen2_moe": {},
    "qwen3": {"use_sliding_window": True, **WINDOWED},
    "qwen3_5_moe_text": HYBRID_LINEAR,
    "qwen3_5_text": HYBRID_LINEAR,
    "qwen3_moe": {},
    "qwen3_next": HYBRID_LINEAR,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 8},
    "rwkv": {"attention_hidden_size": 32},
    "seed_oss": {},
    "smollm3": {},
    "solar_open": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": WINDOWED,
    "youtu": LATENT,
    "xglm": {"ffn_dim": 64, "d_model": 32, "attention_heads": 4, "num_layers": 2},
}


# Those with experts in three-dimensional parameters that lorakit stores and adapts.
# tests/base/test_experts.py compares this with what it finds.
# fmt: off
WITH_EXPERTS = [
    "afmoe", "aria_text", "axk1", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "dots1",
    "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "gemma4_text", "glm4_moe",
    "glm4_moe_lite", "gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid",
    "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "jamba", "jetmoe", "laguna", "lfm2_moe",
    "llama4_text", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "mixtral", "nemotron_h",
    "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "solar_open",
]
# fmt: on

# Models of pictures and text, which train on text alone: what their text models need.
COMPOSITES: dict[str, dict[str, Any]] = {
    "gemma3": {"layer_types": ["sliding_attention", "full_attention"]},
    "qwen3_5": HYBRID_LINEAR,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 32,
}


def composite(model_type: str) -> PreTrainedConfig:
    """The tiny config of a model of pictures and text."""
    text = {**COMMON, "head_dim": 8, "sliding_window": 8, **COMPOSITES[model_type]}
    return AutoConfig.for_model(model_type, text_config=text, vision_config=VISION)


def config(model_type: str, **overrides: Any) -> PreTrainedConfig:
    """The tiny config of a family, as `load_base` would prepare it."""
    known = vars(AutoConfig.for_model(model_type))
    values = COMMON | {name: value for name, value in WHERE_KNOWN.items() if name in known}
    values |= FAMILIES[model_type] | overrides
    # `None` in the table: leave the family's own default.
    values = {name: value for name, value in values.items() if value is not None}
    return base_config.model_config({"model_type": model_type, **values})


def build(model_type: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A tiny random float32 model of the family, with the attention that `load_base` uses.

    Fresh norms and biases are moved away from their ones and zeros, so that every parameter
    matters.
    """
    return built(config(model_type, **overrides), seed)


def built(tiny_config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """See `build`."""
    attention.register()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            tiny_config, attn_implementation=tiny_config._attn_implementation
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.min() == parameter.max():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def folder(path: Path, model_type: str, seed: int = 0, **overrides: Any) -> Path:
    """The same model on disk, with the tests' tokenizer."""
    build(model_type, seed, **overrides).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path
