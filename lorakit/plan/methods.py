"""The same model and micro-batch under three methods: full fine-tuning, LoRA in 16 bit, QLoRA."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.storages import storage
from lorakit.plan.memory import Memory, num_bytes
from lorakit.plan.peaks import Peaks
from lorakit.recipe import BaseSection
from lorakit.train.modes import compute_dtype

HALF_BYTES = 2
# Of a parameter that trains in mixed precision with AdamW: a 16-bit gradient, float32 master copy
# and two moments (ZeRO, arXiv 1910.02054, section 3.1).
FULL_BYTES = {"gradients": 2, "optimizer": 4 + 4 + 4}


def compare_methods(
    model: PreTrainedModel, adapter: Attached, memory: Memory, peaks: Peaks, base: BaseSection
) -> dict[str, dict[str, int]]:
    """{"full" | "lora" | "qlora": {part: bytes, "total"}}, all in 16 bit on one device.

    Activations and working memory are those of the recipe's own pass, in 16 bit; of full
    fine-tuning they are those of LoRA, which keeps the same inputs. lorakit does not train in full.
    """
    frozen = adapter.total - adapter.trainable
    packed, unpacked = _packed(model, base)
    ratio = HALF_BYTES / compute_dtype(model).itemsize
    passes = {
        "activations": int(peaks.activations * ratio),
        "working": int(peaks.working * ratio),
    }
    trained = {
        "adapter": memory.adapter,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
    }
    full = {name: frozen * count for name, count in FULL_BYTES.items()}
    found = {
        "full": {"weights": HALF_BYTES * frozen, "adapter": 0, **full, **passes},
        "lora": {"weights": HALF_BYTES * frozen, **trained, **passes},
        "qlora": {"weights": packed + HALF_BYTES * (frozen - unpacked), **trained, **passes},
    }
    return {name: parts | {"total": sum(parts.values())} for name, parts in found.items()}


def _packed(model: PreTrainedModel, base: BaseSection) -> tuple[int, int]:
    """Bytes of the weights that NF4 packs, once packed, and how many numbers they are."""
    num_packed = num_weights = 0
    by_shape: dict[torch.Size, int] = {}
    for module in model.modules():
        if not isinstance(module, FrozenLinear | FrozenExperts):
            continue
        shape = module.stored.shape
        if shape not in by_shape:
            empty = storage("nf4").pack(
                torch.empty(shape, dtype=torch.bfloat16, device="meta"),
                block_size=base.block_size,
                double_quantization=True,
            )
            by_shape[shape] = num_bytes(empty.tensors().values())
        num_packed += by_shape[shape]
        num_weights += shape.numel()
    return num_packed, num_weights
