"""What a run takes at its highest: phases, methods, devices, and the heap of a CPU."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lorakit.plan.gpus import find_gpu
from lorakit.plan.heap import Heap
from lorakit.plan.libraries import COMPILER, COMPUTING
from lorakit.plan.methods import compare_methods
from lorakit.plan.peaks import CUDA_CONTEXT
from lorakit.plan.plan import plan
from lorakit.plan.result import Plan
from lorakit.plan.trial import same_machine
from lorakit.recipe import edited, parse_recipe
from tests import families
from tests.plan.large_bases import LLAMA_3_1_8B, LLAMA_3_1_70B, QWEN3_235B_A22B
from tests.plan.test_plan import LLAMA_PARAMETERS, LORA_R16, nf4_bytes_8b

# Of its weights 235.09e9 in the model card's words "235B in total".
QWEN3_PARAMETERS = 235_093_634_560


def planned(
    tmp_path: Path,
    config: dict[str, Any],
    *,
    num_gpus: int = 1,
    validation: str | None = None,
    **base: Any,
) -> Plan:
    (tmp_path / "config.json").write_text(json.dumps(config))
    data = {"train": "no/rows.jsonl", "validation": validation}
    recipe: dict[str, Any] = {"base": {"model": str(tmp_path)} | base, "data": data}
    return plan(parse_recipe(recipe | {"adapter": {"r": 16}}), gpu="h200", num_gpus=num_gpus)


def test_an_8b_model_under_three_methods(tmp_path: Path) -> None:
    config = LLAMA_3_1_8B
    packed, dense_plan = (planned(tmp_path, config, quantization=q) for q in ("nf4", "none"))
    recipe = parse_recipe(
        {
            "base": {"model": str(tmp_path), "quantization": "nf4"},
            "data": {"train": "no/rows.jsonl"},
            "adapter": {"r": 16},
        }
    )
    methods = compare_methods(recipe, packed, same_machine(gpu="h200"))
    # Each is what it really needs, whichever of them the recipe is.
    assert methods["lora"]["total"] == dense_plan.peaks.phases["training_step"]
    assert methods["qlora"]["total"] == packed.peaks.phases["training_step"]
    other = edited(recipe, {"base.quantization": "none"})
    assert compare_methods(other, dense_plan, same_machine(gpu="h200")) == methods
    assert methods["full"]["weights"] == 2 * LLAMA_PARAMETERS
    assert methods["lora"]["weights"] == dense_plan.memory.weights
    assert methods["full"]["gradients"] == 2 * LLAMA_PARAMETERS
    assert methods["full"]["optimizer"] == 12 * LLAMA_PARAMETERS
    assert methods["lora"]["optimizer"] == methods["qlora"]["optimizer"] == 8 * LORA_R16
    dense = 2 * (2 * 128_256 * 4096 + (2 * 32 + 1) * 4096)
    assert 0 <= methods["qlora"]["weights"] - nf4_bytes_8b() - dense < 4096  # rotary frequencies
    totals = [methods[name]["total"] for name in ("full", "lora", "qlora")]
    assert totals == sorted(totals, reverse=True)
    for parts in methods.values():
        assert parts["total"] == sum(v for name, v in parts.items() if name != "total")


MODELS = ((LLAMA_3_1_70B, 70_553_706_496), (QWEN3_235B_A22B, QWEN3_PARAMETERS))
# A plan takes seconds of a core: by default one of each model, on eight GPUs.
LARGE = [
    pytest.param(*model, *way, marks=() if way == ("none", 8) else pytest.mark.slow)
    for model, way in itertools.product(MODELS, itertools.product(("none", "nf4"), (1, 8)))
]


@pytest.mark.parametrize(("config", "parameters", "quantization", "num_gpus"), LARGE)
def test_large_models_on_several_gpus(
    tmp_path: Path, config: dict[str, Any], parameters: int, quantization: str, num_gpus: int
) -> None:
    started = time.process_time()
    found = planned(tmp_path, config, num_gpus=num_gpus, quantization=quantization)
    assert time.process_time() - started < 5
    assert found.total_parameters - found.trainable_parameters == parameters
    assert found.peaks.estimated is None
    devices = found.to_json()["devices"]
    assert devices["count"] == num_gpus
    assert devices["peak"] == found.needed
    if num_gpus == 1:
        assert devices["sharded_weights_peak"] is None
    else:
        memory = found.memory
        without = found.needed - memory.by_device["cuda"] - memory.largest_weight
        # All weights are shared out, those too that are offloaded where each holds the whole.
        shared = without + memory.weights // num_gpus
        assert shared <= devices["sharded_weights_peak"] < found.needed


def test_every_phase_is_counted_and_the_largest_is_the_peak(tmp_path: Path) -> None:
    found = planned(tmp_path, LLAMA_3_1_8B, quantization="nf4", validation="no/held.jsonl")
    shown = found.to_json()
    phases = shown["memory_phases"]
    later = {"training_step", "optimizer_step", "validation", "evaluation"}
    assert set(phases) == {"loading"} | later
    assert max(phases.values()) == phases["training_step"] == shown["memory_bytes"]["peak"]
    assert phases["validation"] < phases["evaluation"] < phases["training_step"]
    # 64 answers at a time of up to 2,048 tokens, 8 key heads of 128 in 32 layers, 16 bit.
    assert shown["evaluation_bytes"]["kv_cache"] == pytest.approx(
        64 * 2048 * 32 * 2 * 8 * 128 * 2, rel=0.001
    )
    assert shown["worst_micro_batch"]["assumed"]
    assert any("assumed micro-batch" in note for note in found.notes)
    assert found.gpu is not None
    fits = found.needed + CUDA_CONTEXT <= find_gpu("h200").memory_bytes
    assert found.gpu["fits"] == fits


def test_only_what_lacks_data_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = LLAMA_3_1_8B | {"num_hidden_layers": 1}
    error: list[Exception] = [RuntimeError("Tensor.item() cannot be called on meta tensors")]

    def fail(*_: Any, **__: Any) -> None:
        raise error[0]

    monkeypatch.setattr("lorakit.plan.blueprint.rehearse", fail)
    found = planned(tmp_path, few)
    assert found.peaks.estimated is not None
    assert re.fullmatch(r"test_peaks\.py, line \d+", found.peaks.estimated)
    assert any("rough estimate" in note for note in found.notes)
    assert not any("meta" in note for note in found.notes)  # PyTorch's words are not a user's
    error[0] = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        planned(tmp_path, few)


def test_holes_of_the_heap_are_none_where_nothing_is_freed_between() -> None:
    size = 1 << 20
    stacked = [(n, size) for n in range(20)] + [(n, 0) for n in reversed(range(20))]
    assert 20 * size <= Heap().resident_peak(stacked) < 22 * size


def test_a_hole_does_not_take_the_next_of_its_size() -> None:
    size = 1 << 20
    events = []
    for n in range(40):  # each new one comes before the one before it goes
        events.append((n, size))
        if n:
            events.append((n - 1, 0))
    events.append((39, 0))
    assert Heap().resident_peak(events) > 2 * size
    # The system takes each one back; smaller ones leave holes all the same.
    assert Heap(size).resident_peak(events) < 2.1 * size
    assert Heap(2 * size).resident_peak(events) > 2.9 * size


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures resident memory as Linux tells it")
@pytest.mark.parametrize("name", ["llama-nf4-dora-full-few-long", "gemma2-none-lora-none-many"])
def test_the_peak_is_within_ten_percent(tmp_path: Path, name: str) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "benchmarks/plan_memory.py"), "--only", name]
    environment = dict(os.environ, PYTHONPATH=str(root))
    done = subprocess.run([*command, "--workdir", str(tmp_path)], env=environment, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("family", "changes", "is_compiled"),
    [
        ("gemma2", {}, False),
        ("gemma2", {"adapter.use_dora": True}, True),
        ("gemma2", {"base.quantization": "nf4"}, True),
        ("llama", {}, True),
    ],
)
def test_the_compiler_is_counted_where_an_op_needs_it(
    family: str, changes: dict[str, Any], is_compiled: bool, tmp_path: Path
) -> None:
    families.config(family).save_pretrained(tmp_path)
    base = {"model": str(tmp_path), "device": "cpu"}
    recipe = parse_recipe({"base": base, "data": {"train": "no/rows.jsonl"}})
    found = plan(edited(recipe, changes), reads_rows=False).peaks
    computing = found.libraries - found.held_from_the_start
    assert computing == COMPUTING - (0 if is_compiled else COMPILER)
