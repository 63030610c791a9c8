"""What `lorakit plan` and `check` tell, made by code: every key there is, with hostile text."""

from __future__ import annotations

from typing import Any

import lorakit
from lorakit.recipe import Recipe
from tests.report.runs import HOSTILE, data_file

GIB = 1 << 30
MIB = 1 << 20


def plan_recipe() -> Recipe:
    return lorakit.parse_recipe(
        {
            "base": {"model": "meta-llama/Llama-3.1-8B", "quantization": "nf4"},
            "adapter": {"r": 16, "use_dora": True},
            "data": {"train": "train.jsonl", "max_length": 2048},
            "evaluate": {"retention": "general.jsonl"},
        },
        name="clinic",
    )


def plan_told(**changed: Any) -> dict[str, Any]:
    """The object of `lorakit plan --json`; the numbers are of no run."""
    weights, adapter, gradients, optimizer = 5_430 * MIB, 171 * MIB, 166 * MIB, 331 * MIB
    activations, working = 2_900 * MIB, 622 * MIB
    there = weights + adapter + gradients + optimizer
    trained = {"adapter": adapter, "gradients": gradients, "optimizer": optimizer}
    passes = {"activations": activations, "working": working}
    needed = there + activations + working
    return {
        "parameters": {"total": 8_073_580_544, "trainable": 43_319_296},
        "memory_bytes": {
            "weights": weights,
            **trained,
            "activations": activations,
            "loading_peak": 6_440 * MIB,
            "peak": needed,
        },
        "memory_phases": {
            "loading": 6_440 * MIB,
            "training_step": needed,
            "optimizer_step": there + 96 * MIB,
            "validation": there + 710 * MIB,
            "evaluation": weights + adapter + 3_100 * MIB,
        },
        "memory_parts": {
            "quantization_constants": 130 * MIB,
            "unpacked_weight": 112 * MIB,
            "working": working,
            "loss": 510 * MIB,
            "dense_copies": 0,
            "libraries": 0,
            "answer_weights": 1_500 * MIB,
            "kv_cache": 1_200 * MIB,
        },
        "worst_micro_batch": {
            "tokens": 2_048,
            "examples": 1,
            "longest": 2_048,
            "trained_tokens": 900,
            "packed": True,
            "assumed": None,
        },
        "devices": {
            "type": "cuda",
            "count": 2,
            "peak": needed,
            "sharded_weights_peak": needed - weights // 2,
        },
        "methods": {
            "full": {"weights": 15 * GIB, "gradients": 15 * GIB, "optimizer": 90 * GIB, **passes},
            "lora": {"weights": 15 * GIB, **trained, **passes},
            "qlora": {"weights": weights, **trained, **passes},
        },
        "steps": 1_875,
        "tokens": 6_120_400,
        "trained_tokens": 1_894_210,
        "seconds": 5_940.0,
        "seconds_by_part": {
            "start": 95.0,
            "training": 5_400.0,
            "validation": 130.0,
            "checkpoints": 15.0,
            "evaluation": 300.0,
            "answers_at_most": 840.0,
        },
        "seconds_found": "data sheet of rtx4090: 165 TFLOP/s times an assumed efficiency of 0.4",
        "flops": {"training": 2.6e17, "validation": 4e15, "evaluation": 9e15, "total": 2.73e17},
        "cost": 0.561,
        "cost_found": {"amount": 0.561, "currency": "USD", "basis": f"0.34 an hour {HOSTILE}"},
        "weights_by_storage": {"packed": 4_000 * MIB, "dense": 1_430 * MIB},
        "weights_by_device": {"cuda": weights},
        "layers": {"adapted": 224, "not_adapted": 2},
        "gpu": {"name": "rtx3060ti", "memory_bytes": 8 * GIB, "left_for_activations": 2 * GIB},
        "fit": {
            "needed_bytes": needed,
            "limit_bytes": 8 * GIB,
            "offloaded_bytes": 0,
            "fits": False,
            "fixes": [
                {
                    "changes": {"train.gradient_checkpointing": True},
                    "costs": ["a quarter more time, the same result"],
                    "needed": 7_100 * MIB,
                    "slowdown": 1.24,
                },
                {
                    "changes": {"data.max_length": 1024, "train.micro_batch_tokens": 1024},
                    "costs": ["3.1 % of the rows are dropped", "smaller passes"],
                    "needed": 6_900 * MIB,
                    "slowdown": None,
                },
            ],
            "nearest_bytes": None,
            "larger_gpu": "rtx3060",
        },
        "notes": [f"tokens are estimated {HOSTILE}"],
    } | changed


def check_told(**changed: Any) -> dict[str, Any]:
    """What `check_facts` gives, with a finding of every severity."""
    told = data_file()
    told["findings"].append(
        {
            "id": "stop-token-never-trained",
            "severity": "error",
            "message": f"train: no row trains a stop token {HOSTILE}",
            "where": f"{HOSTILE}.jsonl:3",
        }
    )
    return (
        told
        | {
            "stops": ["<|im_end|>"],
            "silenced": {"near-duplicates": 3, HOSTILE: 1},
            "explained": {
                "stop-token-never-trained": {
                    "title": "No row trains a stop token",
                    "reason": f"The model never learns to end its answer. {HOSTILE}",
                    "source": "trl#2059",
                    "mend": "Use a chat template that ends each turn.",
                    "example": f"trained: assistant {HOSTILE}",
                }
            },
        }
        | changed
    )
