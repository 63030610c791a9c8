"""The same model and rows under three methods: full fine-tuning, LoRA in 16 bit, QLoRA.

LoRA and QLoRA are planned, each with its own activations and working memory, as the recipe itself.
"""

from __future__ import annotations

import logging

from lorakit.errors import InputError
from lorakit.plan.result import Plan
from lorakit.plan.trial import PlanAgain, offloaded_bytes
from lorakit.recipe import BaseSection, Recipe, edited

HALF_BYTES = 2
# Of a parameter that trains in mixed precision with AdamW: a 16-bit gradient, float32 master copy
# and two moments (ZeRO, arXiv 1910.02054, section 3.1).
FULL_BYTES = {"gradients": 2, "optimizer": 4 + 4 + 4}
HALF = ("bfloat16", "float16")
QUANTIZATIONS = {"lora": "none", "qlora": "nf4"}

log = logging.getLogger(__name__)


def compare_methods(recipe: Recipe, now: Plan, plan_again: PlanAgain) -> dict[str, dict[str, int]]:
    """{"full" | "lora" | "qlora": {part: bytes, "total"}} of a training step in 16 bit.

    Offloaded weights are counted as if they were on the device. The passes of full fine-tuning are
    those of LoRA, which keeps the same inputs; lorakit does not train in full. What cannot be
    planned of this base is left out.

    Args:
        now: the plan of the recipe as it is.
        plan_again: plans another recipe for the same machine, on the rows it is given.
    """
    planned = {}
    for method, quantization in QUANTIZATIONS.items():
        is_that = recipe.base.quantization == quantization and now.setup["dtype"] in HALF
        try:
            planned[method] = (
                now if is_that else plan_again(_changed(recipe, quantization), now.sets)
            )
        except InputError as error:  # such as a base that was published quantized
            log.debug("not planned as %s: %s", method, error)
    found = {method: _parts(one) for method, one in planned.items()}
    if "lora" in found:
        frozen = now.total_parameters - now.trainable_parameters
        passes = {part: found["lora"][part] for part in ("activations", "working")}
        own = {name: frozen * count for name, count in FULL_BYTES.items()}
        found = {"full": {"weights": HALF_BYTES * frozen, "adapter": 0, **own, **passes}} | found
    return {name: parts | {"total": sum(parts.values())} for name, parts in found.items()}


def _changed(recipe: Recipe, quantization: str) -> Recipe:
    changes = {"base.quantization": quantization, "base.dtype": HALF[0]}
    if quantization != "none":
        return edited(recipe, changes)
    # Options of packing would have no effect, which is an error.
    kept = recipe.base.model_dump(
        exclude_unset=True, exclude={"quantization", "double_quantization", "block_size"}
    )
    return edited(recipe.model_copy(update={"base": BaseSection(**kept)}), changes)


def _parts(planned: Plan) -> dict[str, int]:
    """Of the training step; working memory is all that comes and goes, or is unpacked."""
    memory, peaks = planned.memory, planned.peaks
    parts = {
        "weights": memory.weights,
        "adapter": memory.adapter,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": peaks.activations,
    }
    total = peaks.phases["training_step"] + offloaded_bytes(planned)
    return parts | {"working": total - sum(parts.values())}
