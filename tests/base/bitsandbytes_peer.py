"""bitsandbytes as a peer: what transformers writes and reads with it on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tests import tiny

FOUR_BIT: dict[str, dict[str, Any]] = {
    f"{name}{' double' if double else ''} in {storage}": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": name,
        "bnb_4bit_use_double_quant": double,
        "bnb_4bit_quant_storage": storage,
        "bnb_4bit_compute_dtype": "float32",
    }
    for name, double, storage in (
        ("nf4", True, "uint8"),
        ("nf4", False, "bfloat16"),
        ("fp4", True, "float16"),
        ("fp4", False, "float32"),
    )
}
CONFIGS: dict[str, dict[str, Any]] = FOUR_BIT | {"int8": {"load_in_8bit": True}}
# Biases (qwen2), Conv1D and a tied head (gpt2), fused projections (phi3), experts and a router that
# is a linear layer (qwen2_moe), other names on disk than in the model (mixtral).
FAMILIES = ("llama", "qwen2", "gpt2", "phi3", "qwen2_moe", "mixtral")


def save(
    folder: Path, output: Path, *, max_shard_size: str = "5GB", **config: Any
) -> PreTrainedModel:
    """Quantize a folder with transformers and bitsandbytes, save it, and return the model."""
    pytest.importorskip("bitsandbytes")
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**config), dtype=torch.float32
    )
    model.save_pretrained(output, max_shard_size=max_shard_size)
    tiny.tokenizer().save_pretrained(output)
    return model


def load(folder: Path) -> PreTrainedModel:
    """What transformers makes of a quantized folder, computing in float32 on every processor.

    With AVX512_BF16 bitsandbytes 0.50 packs weights anew in evaluation, computes in bfloat16 and
    refuses sizes that its blocks do not divide; with AVX-512 it takes a wrong scale where a block
    crosses the end of a row. Its generic code does neither.
    """
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            by_generic_code(module)
    return model


def by_generic_code(layer: Any) -> None:
    """Let a layer of bitsandbytes compute by its generic code; see `load`."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        weight = dequantize(layer.weight.data, layer.weight.quant_state)
        return nn.functional.linear(x, weight.to(x.dtype), layer.bias)

    layer.forward = forward


def dequantize(codes: torch.Tensor, state: Any) -> torch.Tensor:
    """What the codes and a QuantState stand for, by bitsandbytes' generic code."""
    import bitsandbytes.functional as functional
    from bitsandbytes.backends.default import ops

    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    with torch.compiler.set_stance("force_eager"):
        return ops._dequantize_4bit_compute(
            codes.reshape(-1).view(torch.uint8),
            absmax,
            state.code,
            state.blocksize,
            state.shape,
            state.dtype,
        )


def dense_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """{path of a packed layer: its dequantized weight (O, I) in float32}"""
    import bitsandbytes

    weights = {}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weights[name] = dequantize(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            codes, absmax = module.weight.data, module.weight.SCB
            weights[name] = bitsandbytes.functional.int8_vectorwise_dequant(codes, absmax)
    return weights
