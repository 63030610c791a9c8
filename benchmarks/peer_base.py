"""The peers' way to load a base: transformers, with bitsandbytes for 4-bit weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel


def load(model: Path, storage: str) -> PreTrainedModel:
    """The base in float32; "nf4" with the settings that `sft_ours.load` has."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=None if storage == "none" else quantization,
    )
