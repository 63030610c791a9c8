"""The plan counts what is there: the loaded model, the optimizer's buffers, the batches."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.attached import Attached
from lorakit.base.load import load_base
from lorakit.cli import main
from lorakit.data.examples import Example, examples_in_memory
from lorakit.errors import InputError
from lorakit.optimizers import forms
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import StatePlan, state_plan_of
from lorakit.plan.gpus import GPUS, find_gpu, gpu_of_device_name
from lorakit.plan.libraries import PACKING, ROOMS, TOKENIZER, TOKENIZER_PER_TOKEN
from lorakit.plan.memory import Memory, count_memory, num_bytes
from lorakit.plan.plan import plan
from lorakit.plan.steps import count_run_length
from lorakit.recipe import LoraConfig, edited, parse_recipe
from lorakit.train.batches import StepBatches
from tests import families, tiny
from tests.plan.large_bases import LLAMA_3_1_8B

# Of meta-llama/Llama-3.1-8B: its model card says 8.03B.
LLAMA_PARAMETERS = 8_030_261_248
# Sum over q, k, v, o, gate, up, down of r (in + out), times 32 layers, r = 16.
LORA_R16 = 41_943_040
# One magnitude per output row of the same layers.
DORA_R16 = 43_319_296


def values(model: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    base = {"model": str(model), "device": "cpu"} | sections.pop("base", {})
    return {"base": base, "data": {"train": "no/rows.jsonl"}} | sections


@pytest.fixture(scope="session")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but a config.json."""
    folder = tmp_path_factory.mktemp("llama-3.1-8b")
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    return folder


@pytest.mark.parametrize(("use_dora", "trainable"), [(False, LORA_R16), (True, DORA_R16)])
def test_an_8b_model_from_its_config_alone(llama_8b: Path, use_dora: bool, trainable: int) -> None:
    started = time.process_time()
    recipe = parse_recipe(
        values(
            llama_8b,
            base={"quantization": "nf4", "dtype": "bfloat16"},
            adapter={"r": 16, "use_dora": use_dora},
        )
    )
    result = plan(recipe).to_json()
    assert time.process_time() - started < 10  # the first imports of transformers included
    assert result["parameters"] == {
        "total": LLAMA_PARAMETERS + trainable,
        "trainable": trainable,
    }
    assert result["layers"]["adapted"] == 7 * 32
    memory = result["memory_bytes"]
    assert memory["gradients"] == 4 * trainable
    norms = DORA_R16 - LORA_R16 if use_dora else 0  # one float32 per magnitude
    assert memory["adapter"] == 4 * (trainable + norms)
    assert memory["optimizer"] == 8 * trainable
    resident = sum(memory[part] for part in ("weights", "adapter", "gradients", "optimizer"))
    assert memory["peak"] > resident + memory["activations"] > resident
    assert result["steps"] is None
    linear = LLAMA_PARAMETERS - 2 * 128_256 * 4096 - (2 * 32 + 1) * 4096
    assert result["weights_by_storage"]["packed"] == nf4_bytes_8b()
    dense = 2 * (LLAMA_PARAMETERS - linear)
    buffers = result["weights_by_storage"]["dense"] - dense
    assert 0 <= buffers < 4096  # rotary frequencies
    held = ROOMS + TOKENIZER + 128_256 * TOKENIZER_PER_TOKEN
    # Head and embedding are read before anything is packed; the largest of the others is an MLP's.
    assert memory["loading_peak"] == memory["weights"] + 2 * 14_336 * 4096 + PACKING + held


def nf4_bytes_8b() -> int:
    """Codes, 8-bit scales of blocks of 64, float32 scales of 256 of those and one offset each."""
    layer = [
        (4096, 4096),
        (1024, 4096),
        (1024, 4096),
        (4096, 4096),
        (14_336, 4096),
        (14_336, 4096),
        (4096, 14_336),
    ]
    blocks = [out * into // 64 for out, into in layer]
    nested = [-(-count // 256) for count in blocks]
    per_layer = sum(out * into // 2 for out, into in layer) + sum(blocks)
    return 32 * (per_layer + 4 * sum(nested) + 4 * len(layer))


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "llama4_text", "jetmoe"])
def test_planned_bytes_of_experts_are_those_of_the_loaded_model(
    model_type: str, quantization: str, tmp_path: Path
) -> None:
    folder = families.folder(tmp_path, model_type)
    base = {"quantization": quantization, "dtype": "bfloat16"}
    recipe = parse_recipe(values(folder, base=base, adapter={"r": 4}))
    predicted = plan(recipe)
    model, _ = load_base(folder, quantization=quantization, dtype=torch.bfloat16, device="cpu")
    adapter = attach_adapter(model, LoraConfig(r=4))
    state = state_plan_of(model, adapter.parameters(), recipe.train, "cpu")
    assert predicted.memory == count_memory(model, adapter, state, predicted.memory.by_device)
    assert (predicted.total_parameters, predicted.trainable_parameters) == (
        adapter.total,
        adapter.trainable,
    )
    plain = families.build(model_type)
    assert adapter.total - adapter.trainable == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(
    "options",
    [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj"]}],
    ids=str,
)
def test_planned_bytes_are_those_of_the_loaded_model(
    tiny_folder: Path, quantization: str, options: dict[str, Any]
) -> None:
    recipe = parse_recipe(
        values(
            tiny_folder,
            base={"quantization": quantization, "dtype": "bfloat16"},
            adapter={"r": 4} | options,
        )
    )
    predicted = plan(recipe)
    model, _ = load_base(tiny_folder, quantization=quantization, dtype=torch.bfloat16, device="cpu")
    adapter = attach_adapter(model, LoraConfig(r=4, **options))
    state = state_plan_of(model, adapter.parameters(), recipe.train, "cpu")
    assert predicted.state == state
    loaded = count_memory(model, adapter, state, predicted.memory.by_device)
    assert predicted.memory == loaded
    assert predicted.memory.by_device == {"cpu": loaded.weights}
    assert (predicted.total_parameters, predicted.trainable_parameters) == (
        adapter.total,
        adapter.trainable,
    )
    assert loaded.weights + loaded.adapter == num_bytes(
        {
            tensor.untyped_storage().data_ptr(): tensor
            for tensor in (*model.parameters(), *model.buffers())
        }.values()
    )
    _assert_planned_bytes_are_held(adapter, state, loaded)


@pytest.mark.parametrize(
    ("optim", "memory"),
    [(name, None) for name in forms.names()]
    + [(name, "80KB") for name in forms.names() if forms.form(name).PAGED],
)
def test_planned_bytes_are_those_of_every_optimizer(
    tmp_path: Path, optim: str, memory: str | None
) -> None:
    folder = tiny.folder(tmp_path, "qwen2")  # has biases, which train in bfloat16
    options = {"r": 64, "use_dora": True, "bias": "all"}
    recipe = parse_recipe(
        values(folder, adapter=options, base={"dtype": "bfloat16"})
        | {"train": {"optim": optim, "optim_memory": memory}}
    )
    predicted = plan(recipe)
    model, _ = load_base(folder, dtype=torch.bfloat16, device="cpu")
    adapter = attach_adapter(model, LoraConfig(**options))
    state = state_plan_of(model, adapter.parameters(), recipe.train, "cpu")
    loaded = count_memory(model, adapter, state, predicted.memory.by_device)
    assert (predicted.state, predicted.memory) == (state, loaded)
    _assert_planned_bytes_are_held(adapter, state, loaded)
    shown = predicted.to_json()
    assert shown["optimizer_state"]["bytes"] == state.layout.state_bytes
    assert shown["optimizer_state"]["host_bytes"] == (
        state.layout.state_bytes if forms.form(optim).PAGED else 0
    )
    if memory is not None:
        assert shown["optimizer_state"]["resident_bytes"] == 80_000 < state.layout.state_bytes
    # On a CPU the host's memory is the device's.
    masters = 4 * sum(p.numel() for p in adapter.parameters().values() if p.dtype != torch.float32)
    assert loaded.optimizer - state.resident_bytes - state.host_bytes >= masters > 0


def _assert_planned_bytes_are_held(adapter: Attached, state: StatePlan, memory: Memory) -> None:
    """That an optimizer which has taken a step holds what was planned."""
    parameters = adapter.parameters()
    optimizer = AdamW(parameters, state)
    optimizer.step(1e-3, torch.zeros(()))
    flat = [t for t in vars(optimizer).values() if isinstance(t, torch.Tensor) and t.dim() == 1]
    # The flat parameter buffer holds the float32 parameters themselves, and masters of the others.
    own = [p for p in parameters.values() if p.dtype != torch.float32]
    held = num_bytes(flat) + 2 * num_bytes(own) + num_bytes(optimizer.moments().values())
    trained = num_bytes(parameters.values())
    padding = state.layout.size - sum(p.numel() for p in parameters.values())
    peak = int(optimizer.facts()["peak_bytes"])
    if state.budget is not None:
        # Whole pages only: a little less than the budget.
        assert state.resident_bytes - peak < max(page.num_bytes for page in state.layout.pages)
        held += state.resident_bytes
    unnamed = state.layout.state_bytes - num_bytes(optimizer.moments().values())
    assert 0 <= unnamed <= 2 * padding
    assert held + unnamed == trained + memory.gradients + memory.optimizer


@pytest.mark.parametrize("max_steps", [None, 1, 5, 23])
@pytest.mark.parametrize("num_epochs", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("share", [1.0, 2.0, 0.4])
def test_counted_steps_and_tokens_are_those_of_the_batches(
    max_steps: int | None, num_epochs: float, share: float
) -> None:
    generator = np.random.default_rng(0)
    examples = examples_in_memory(
        [
            Example(
                np.ones(length, dtype=np.int32),
                (np.arange(length) > length // 2).astype(np.float32),
            )
            for length in generator.integers(3, 40, size=27)
        ],
        "fingerprint",
    )
    repeats = np.where(np.arange(27) % 3 == 0, share, 1.0)
    counted = count_run_length(
        examples, repeats, batch_size=4, num_epochs=num_epochs, max_steps=max_steps, seed=3
    )
    batches = StepBatches(examples, repeats, batch_size=4, seed=3, token_budget=64, packed=True)
    steps = batches.count_steps(num_epochs, max_steps)
    assert counted.steps == steps
    assert counted.tokens == sum(batches[step].num_tokens for step in range(steps))
    assert counted.trained_tokens == sum(batches[step].num_trained_tokens for step in range(steps))


def test_steps_are_known_when_the_data_are_at_hand(tiny_folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What is asthma?", "completion": "A disease."}\n' * 10)
    recipe = parse_recipe(
        values(tiny_folder)
        | {"data": {"train": str(rows)}, "train": {"batch_size": 4, "num_train_epochs": 2}}
    )
    result = plan(recipe)
    assert result.steps == 6
    assert result.trained_tokens is not None
    assert 0 < result.trained_tokens < (result.tokens or 0)


def test_an_endless_run_is_estimated_at_once() -> None:
    weights = np.array([0, 1, 1], dtype=np.float32)
    examples = examples_in_memory([Example(np.ones(3, dtype=np.int32), weights)] * 10)
    for share in (0.5, 2.0):
        repeats = np.full(10, share)
        counted = count_run_length(
            examples, repeats, batch_size=5, num_epochs=1, max_steps=10**9, seed=0
        )
        assert counted.steps == 10**9
        assert counted.tokens == 3 * 5 * 10**9
        assert counted.trained_tokens == 2 * 5 * 10**9
        assert counted.exact == (share == 2.0)
    with pytest.raises(InputError, match="less than one"):
        count_run_length(
            examples, np.full(10, 0.01), batch_size=5, num_epochs=1, max_steps=1, seed=0
        )


def test_plan_refuses_what_train_refuses(tiny_folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n{broken\n')
    data = {"train": str(rows)}
    with pytest.raises(InputError, match=r"rows\.jsonl:2: broken JSON"):
        plan(parse_recipe(values(tiny_folder) | {"data": data}))
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(InputError, match="over the model's context"):
        plan(parse_recipe(values(tiny_folder) | {"data": data | {"max_length": 10**6}}))


def test_plan_needs_no_evaluation_set(tiny_folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "a{n}", "completion": "b"}}\n' for n in range(10)))
    changes = {
        "data": {"train": str(rows), "validation": 0.2},
        "evaluate": {"in_domain": str(tmp_path / "not-yet.jsonl")},
        "train": {"num_train_epochs": 1, "batch_size": 1},
    }
    assert plan(parse_recipe(values(tiny_folder) | changes)).steps == 8


def test_the_command_prints_the_contract(
    llama_8b: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(values(llama_8b, base={"quantization": "nf4"})))
    assert main(["plan", str(recipe), "--gpu", "T4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) >= {
        "parameters",
        "memory_bytes",
        "steps",
        "tokens",
        "trained_tokens",
        "seconds",
        "cost",
    }
    assert list(shown["memory_bytes"]) == [
        "weights",
        "adapter",
        "gradients",
        "optimizer",
        "activations",
        "loading_peak",
        "peak",
    ]
    assert shown["gpu"]["left_for_activations"] > 0
    assert main(["plan", str(recipe)]) == 0
    assert "41,943,040" in capsys.readouterr().out


def test_a_base_too_large_for_the_gpu_is_split(llama_8b: Path) -> None:
    recipe = parse_recipe(values(llama_8b, base={"quantization": "none", "device": "auto"}))
    recipe.data.max_length = 512
    whole = plan(recipe, gpu="h100")
    assert whole.memory.by_device == {"cuda": whole.memory.weights}
    assert whole.memory.weights > 2 * LLAMA_PARAMETERS  # bfloat16
    split = plan(recipe, gpu="rtx3060")
    assert set(split.memory.by_device) == {"cuda", "cpu"}
    assert split.memory.by_device["cuda"] <= 0.8 * find_gpu("rtx3060").memory_bytes
    assert sum(split.memory.by_device.values()) == split.memory.weights
    assert split.gpu is not None
    assert split.gpu["needed"] < split.gpu["memory_bytes"]
    fitting = {"auto": split.gpu["fits"]}
    for offload in ("none", "cpu"):
        other = plan(edited(recipe, {"base.offload": offload}), gpu="rtx3060")
        assert other.gpu is not None
        fitting[offload] = other.gpu["fits"]
    # Weights elsewhere are slow: they fit where somebody asked for that.
    assert fitting == {"auto": False, "none": False, "cpu": True}


def test_gpu_names() -> None:
    assert find_gpu("RTX 4090") is GPUS["rtx4090"]
    assert not find_gpu("T4").has_bfloat16
    for name in GPUS:
        assert find_gpu(name.upper()).name == name
    with pytest.raises(InputError, match=r"h1000.*possible: .*Did you mean h100\?"):
        find_gpu("h1000")


@pytest.mark.parametrize(
    ("device_name", "mebibytes", "name"),
    [
        ("Tesla T4", 14_930, "t4"),  # CUDA reports a little less than nvidia-smi
        ("NVIDIA L4", 22_579, "l4"),
        ("NVIDIA A10", 22_508, "a10"),
        ("NVIDIA A10G", 22_508, None),
        ("NVIDIA L40S", 45_372, "l40s"),
        ("NVIDIA A100-SXM4-40GB", 40_326, "a100-40"),
        ("A100-PCIE-40GB", 40_536, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 81_154, "a100-80"),
        ("NVIDIA A100 80GB PCIe", 81_154, "a100-80"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4_864, None),
        ("NVIDIA H100 80GB HBM3", 81_079, "h100"),
        ("NVIDIA H100 PCIe", 81_079, "h100"),
        ("NVIDIA H100 NVL", 95_354, None),
        ("NVIDIA H200", 143_156, "h200"),
        ("NVIDIA B200", 182_642, "b200"),
        ("NVIDIA GeForce RTX 3060", 12_044, "rtx3060"),
        ("NVIDIA GeForce RTX 3060", 8_191, None),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 6_143, None),
        ("NVIDIA GeForce RTX 3090", 24_259, "rtx3090"),
        ("NVIDIA GeForce RTX 4060 Ti", 16_070, "rtx4060ti"),
        ("NVIDIA GeForce RTX 4060 Ti", 7_947, None),
        ("NVIDIA GeForce RTX 4090", 24_202, "rtx4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16_375, None),
        ("NVIDIA GeForce RTX 5090", 32_110, "rtx5090"),
        ("AMD Instinct MI300X", 196_592, None),
    ],
)
def test_a_gpu_is_known_by_what_its_driver_says(
    device_name: str, mebibytes: int, name: str | None
) -> None:
    found = gpu_of_device_name(device_name, mebibytes << 20)
    assert (None if found is None else found.name) == name


def test_a_gpu_s_memory_is_less_than_its_data_sheet_says() -> None:
    """A T4 is sold as one of 16 GB, an H200 as one of 141 GB; no run gets 16 or 141 GiB."""
    for name, gigabytes in {"t4": 16, "l4": 24, "l40s": 48, "h200": 141, "b200": 192}.items():
        assert 0.9 * gigabytes < find_gpu(name).memory_bytes / 2**30 < gigabytes
