"""LoRA on experts: the laws over families with experts, parity with PEFT's target_parameters."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from lorakit.adapters.attach import adapter_disabled, attach_adapter, attached
from lorakit.adapters.contract import Switch
from lorakit.adapters.dense_layers import dense_layers
from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.mixed import adapters_by_row
from lorakit.adapters.several import drop_adapter, use_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base import packing
from lorakit.base.frozen_experts import ExpertsLayout, FrozenExperts, expert_layouts, parameter_name
from lorakit.base.storages import quantizations, storage
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from lorakit.ship.merge import merge
from tests import families
from tests.adapters.bases import logits, perturb, token_ids
from tests.adapters.peers import load_in_peft, make_in_peft, save_from_peft
from tests.tolerances import (
    GRADIENT_FLOAT32,
    IDENTITY,
    LOGITS_FLOAT32,
    OP,
    relative_error,
)

STORAGES = [name for name in sorted(quantizations()) if name != "none"]  # dense: test_families
KINDS_OF_EXPERTS = ("mixtral", "gpt_oss", "nemotron_h", "llama4_text", "jetmoe")
# Weights large enough that what experts add, and its gradient, are no rounding noise.
STRONG = {"initializer_range": 0.1}
EVERY = [
    pytest.param(
        model_type, name, marks=[] if name == "nf4" or model_type == "gpt_oss" else pytest.mark.slow
    )
    for model_type in families.WITH_EXPERTS
    for name in STORAGES
]


def packed_model(model_type: str, name: str = "none") -> PreTrainedModel:
    """A tiny model as `load_base` would store it."""
    model = families.build(model_type, **STRONG).requires_grad_(False)
    if name != "none":
        for path in packing.packable(model):
            weight = packing.storable_weight(packing.layer_at(model, path))
            packed = storage(name).pack(weight, block_size=64, double_quantization=True)
            packing.replace_layer(model, path, packed)
    return model


def plain_model(model_type: str, name: str = "none") -> PreTrainedModel:
    """transformers' model with the weights that the stored ones stand for."""
    stored, model = packed_model(model_type, name), families.build(model_type, **STRONG)
    if name != "none":
        for path, parameter in packing.packable(model).items():
            model.get_parameter(parameter).data = stored.get_submodule(path).weight.clone()
    return model


def expert_gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    ids = token_ids()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("model_type", "name"), EVERY)
def test_laws_over_packed_experts(model_type: str, name: str, tmp_path: Path) -> None:
    model = packed_model(model_type, name)
    before = logits(model)
    adapter = attach_adapter(model, LoraConfig(r=4))
    assert set(expert_layouts(families.build(model_type))) <= adapter.adapted.keys()
    assert relative_error(logits(model), before) <= IDENTITY
    perturb(model)
    adapted = logits(model)
    assert relative_error(adapted, before) > 1e-2
    for parameter_name_, gradient in expert_gradients(model).items():
        assert gradient.abs().max() > 0, parameter_name_
    with adapter_disabled(model):
        assert relative_error(logits(model), before) <= IDENTITY
    with dense_layers(model, 1 << 40):
        assert not any(isinstance(m, AdaptedExperts) for m in model.modules())
        assert relative_error(logits(model), adapted) <= LOGITS_FLOAT32
    assert relative_error(logits(model), adapted) <= IDENTITY
    assert relative_error(logits(merge(model)), adapted) <= LOGITS_FLOAT32
    save_adapter(model, tmp_path)
    again = packed_model(model_type, name)
    load_adapter(again, tmp_path)
    assert relative_error(logits(again), adapted) <= IDENTITY


@pytest.mark.parametrize("model_type", KINDS_OF_EXPERTS)
def test_a_merged_model_has_nothing_of_ours_left(model_type: str) -> None:
    model = packed_model(model_type, "nf4")
    attach_adapter(model, LoraConfig(r=4))
    plain, merged = families.build(model_type), merge(model)
    names = [[n for n, _ in m.named_parameters()] for m in (merged, plain)]
    assert sorted(names[0]) == sorted(names[1])
    # PEFT nests by the order of definition; biases of experts may have moved before the weights.
    weights = [[n for n in each if "bias" not in n] for each in names]
    assert weights[0] == weights[1]
    assert [type(m) for m in merged.modules()] == [type(m) for m in plain.modules()]
    assert merged.config._experts_implementation == plain.config._experts_implementation
    assert not any("forward" in vars(module) for module in merged.modules())


# What PEFT's LoraConfig is given for experts, by the names that most families have.
PEFT_CONFIGS: dict[str, dict[str, Any]] = {
    "both": {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "the other order": {"target_parameters": ["experts.down_proj", "experts.gate_up_proj"]},
    "the first": {"target_parameters": ["gate_up_proj"]},
    "the second": {"target_parameters": ["mlp.experts.down_proj"]},
    "one layer": {"target_parameters": ["model.layers.1.mlp.experts.down_proj"]},
    "with linear layers": {
        "target_modules": ["q_proj", "v_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 2, "q_proj": 3},
        "alpha_pattern": {r".*\.gate_up_proj": 5},
    },
    "rslora": {"target_parameters": ["gate_up_proj", "down_proj"], "use_rslora": True},
}


def parity(model_type: str, storage_name: str, config: dict[str, Any], tmp_path: Path) -> None:
    """PEFT's adapter loads here: equal logits and gradients; and goes back with equal tensors."""
    values = {"r": 4, "lora_alpha": 6, "target_modules": []} | config
    theirs = make_in_peft(plain_model(model_type, storage_name), peft.LoraConfig(**values))
    save_from_peft(theirs, tmp_path / "theirs")
    ours = packed_model(model_type, storage_name)
    load_adapter(ours, tmp_path / "theirs")
    assert relative_error(logits(ours), logits(theirs)) <= LOGITS_FLOAT32
    save_adapter(ours, tmp_path / "ours")
    saved = [load_file(tmp_path / n / "adapter_model.safetensors") for n in ("ours", "theirs")]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][name], tensor) for name, tensor in saved[1].items())
    back = load_in_peft(plain_model(model_type, storage_name), tmp_path / "ours")
    assert relative_error(logits(back), logits(ours)) <= LOGITS_FLOAT32

    theirs.requires_grad_(False)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("lora_" in name)
    own = {
        f"base_model.model.{module.file_name}.{suffix}": f"{name}.{below}"
        for name, module in attached(ours).modules.items()
        for suffix, below in module.peft_names().items()
    }
    expected, found = expert_gradients(theirs), expert_gradients(ours)
    for name, gradient in expected.items():
        mine = found[own[name.replace(".default", "")]]
        assert relative_error(mine, gradient) <= GRADIENT_FLOAT32, name


@pytest.mark.parametrize("config", PEFT_CONFIGS.values(), ids=PEFT_CONFIGS)
def test_parity_with_peft(config: dict[str, Any], tmp_path: Path) -> None:
    parity("mixtral", "none", config, tmp_path)


@pytest.mark.parametrize("storage_name", ["none", "nf4"])
@pytest.mark.parametrize("model_type", KINDS_OF_EXPERTS)
def test_parity_with_peft_whatever_the_layout(
    model_type: str, storage_name: str, tmp_path: Path
) -> None:
    layouts = expert_layouts(families.build(model_type)).items()
    names = sorted({parameter_name(*item).split(".", 3)[-1] for item in layouts})
    parity(model_type, storage_name, {"target_parameters": names}, tmp_path)


def test_names_are_written_in_the_order_of_the_nesting(tmp_path: Path) -> None:
    model = packed_model("qwen3_moe", "nf4")
    attach_adapter(model, LoraConfig(r=4))
    save_adapter(model, tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert values["target_parameters"] == ["experts.gate_up_proj", "experts.down_proj"]
    assert values["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    prefix = "base_model.model.model.layers.0.mlp.experts"
    assert shapes[f"{prefix}.base_layer.lora_A.weight"] == (4 * 4, 32)  # (E * r, hidden size)
    assert shapes[f"{prefix}.base_layer.lora_B.weight"] == (2 * 16, 4 * 4)
    assert shapes[f"{prefix}.lora_A.weight"] == (4 * 4, 16)
    assert shapes[f"{prefix}.lora_B.weight"] == (32, 4 * 4)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("tells", [False, True])
def test_the_module_against_float64(tells: bool, transposed: bool) -> None:
    E, O, I, r, counts = 3, 5, 7, 2, [2, 0, 4]  # noqa: E741
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(E, *((I, O) if transposed else (O, I)), generator=generator)
    packed = storage("nf4").pack(weight, block_size=32, double_quantization=True)
    module = AdaptedExperts(
        "experts.down_proj",
        FrozenExperts(packed, ExpertsLayout(transposed, tells)),
        r,
        0.7,
        depth=0,
        device=torch.device("cpu"),
        switch=Switch(),
    )
    x = torch.randn(sum(counts), I, generator=generator)
    for parameter in module.parameters():
        parameter.data.normal_(generator=generator)
    merged = module.merged_weight(packed.dequantize(torch.float64))
    merged_EOI = merged.transpose(1, 2) if transposed else merged
    experts = torch.repeat_interleave(torch.arange(E), torch.tensor(counts))
    expected = torch.einsum("si,soi->so", x.double(), merged_EOI[experts])
    assert relative_error(module(x, counts), expected) <= OP[torch.float32]
    assert relative_error(module.weight, merged) <= OP[torch.float32]
    merges = module.merges()[""]
    dense = packed.dequantize()
    assert merges.error is not None and merges.error(dense, merges.change(dense)) < 1e-6
    assert merges.error(dense, dense) > 0.1
    double = module.double()
    inputs = (x.double().requires_grad_(), *module.adapter.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: double(x, counts), inputs)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "kind 'dora' cannot be applied to experts: 4 parameters"),
        ({"lora_dropout": 0.1}, "lora_dropout 0.1 cannot be applied to experts"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' cannot be applied to experts"),
        ({"target_parameters": ["experts.gate_proj"]}, "this model has: experts.gate_up_proj"),
        (
            {"target_parameters": ["down_proj"], "modules_to_save": ["mlp.experts"]},
            "named by target_parameters and is part of modules_to_save",
        ),
        ({"target_modules": [], "target_parameters": []}, r"target_modules .*match no module"),
    ],
)
def test_what_experts_do_not_have_is_refused_and_changes_nothing(
    config: dict[str, Any], message: str
) -> None:
    model = packed_model("mixtral")
    before = [(name, type(module)) for name, module in model.named_modules()]
    with pytest.raises(AdapterError, match=message):
        attach_adapter(model, LoraConfig(r=4, **config))
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert model.config._experts_implementation == "grouped_mm"
    if "use_dora" in config or "lora_dropout" in config:
        adapter = attach_adapter(model, LoraConfig(r=4, **config, target_parameters=[]))
        assert set(adapter.not_adapted.values()) >= {"not in target_parameters"}


@pytest.mark.parametrize("name", ["none", "nf4"])
@pytest.mark.parametrize(
    ("config", "num_adapted", "reason"),
    [
        ({}, 4, None),
        ({"exclude_modules": ["experts"]}, 0, "exclude_modules"),
        ({"exclude_modules": ["gate_up_proj"]}, 2, "exclude_modules"),
        ({"exclude_modules": r".*\.layers\.1\..*"}, 2, "exclude_modules"),
        ({"layers_to_transform": [1]}, 2, "layers_to_transform"),
        ({"modules_to_save": ["layers.0.mlp"]}, 2, "modules_to_save"),
        ({"target_parameters": []}, 0, "not in target_parameters"),
        ({"target_parameters": ["down_proj"]}, 2, "not in target_parameters"),
        ({"target_modules": ["q_proj"]}, 0, "not in target_parameters"),
        ({"target_modules": [], "target_parameters": ["experts.down_proj"]}, 2, None),
    ],
    ids=str,
)
def test_which_experts_are_meant(
    name: str, config: dict[str, Any], num_adapted: int, reason: str | None
) -> None:
    model = packed_model("mixtral", name)
    places = expert_layouts(model)
    adapter = attach_adapter(model, LoraConfig(r=4, **config))
    assert len(adapter.adapted.keys() & places) == num_adapted
    left = {adapter.not_adapted[path] for path in places if path not in adapter.adapted}
    assert reason is None or left == {reason}
    assert len(left) <= 1
    logits(model)


def test_experts_trained_in_full_are_saved_under_peft_s_names(tmp_path: Path) -> None:
    model = packed_model("mixtral", "nf4")
    config = LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["mlp.experts"], target_parameters=[]
    )
    attach_adapter(model, config)
    perturb(model)
    save_adapter(model, tmp_path)
    assert relative_error(logits(merge(model)), logits(model)) <= LOGITS_FLOAT32
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.mlp.experts.gate_up_proj" in names
    in_peft = load_in_peft(plain_model("mixtral", "nf4"), tmp_path)
    assert relative_error(logits(in_peft), logits(model)) <= LOGITS_FLOAT32


def test_routers_stay_as_they_are() -> None:
    adapter = attach_adapter(packed_model("jetmoe"), LoraConfig(r=4))
    routers = {n: r for n, r in adapter.not_adapted.items() if ".router." in n}
    assert set(routers.values()) == {"expert router"} and len(routers) == 4


@pytest.mark.parametrize("name", ["none", "nf4"])
@pytest.mark.parametrize("model_type", ["mixtral", "llama4_text"])
def test_several_adapters_with_experts_and_none_again(model_type: str, name: str) -> None:
    model = packed_model(model_type, name)
    kinds = [(path, type(module)) for path, module in model.named_modules()]
    implementation, before = model.config._experts_implementation, logits(model)
    found = {}
    for one in ("first", "second"):
        attach_adapter(model, LoraConfig(r=4), name=one)
        perturb(model, seed=len(one))
        found[one] = logits(model)
    assert relative_error(found["first"], found["second"]) > 1e-2
    for one in ("first", "second"):
        use_adapter(model, one)
        assert torch.equal(logits(model), found[one])
    drop_adapter(model, "first")
    drop_adapter(model, "second")
    assert [(path, type(module)) for path, module in model.named_modules()] == kinds
    assert model.config._experts_implementation == implementation
    assert relative_error(logits(model), before) <= IDENTITY


def test_experts_cannot_be_mixed_in_one_batch() -> None:
    model = packed_model("mixtral")
    attach_adapter(model, LoraConfig(r=4), name="first")
    with (
        pytest.raises(AdapterError, match="a FrozenExperts, which is not known to treat each"),
        adapters_by_row(model, ["first", None]),
    ):
        pass


def test_an_adapter_of_transformers_4_is_refused_by_name_and_peft_s_copy_of_it_loads(
    tmp_path: Path,
) -> None:
    """Factors of each expert's own w1, w2 and w3, as a Mixtral adapter had them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer, expert in itertools.product(range(2), range(4)):
        prefix = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}"
        for name, (width, height) in {"w1": (32, 64), "w2": (64, 32), "w3": (32, 64)}.items():
            for suffix, shape in {"lora_A": (2, width), "lora_B": (height, 2)}.items():
                tensors[f"{prefix}.{name}.{suffix}.weight"] = torch.randn(
                    shape, generator=generator
                )
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    save_file(tensors, old / "adapter_model.safetensors")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["w1", "w2", "w3"])
    config.save_pretrained(old)
    with pytest.raises(AdapterError, match="trained with transformers 4, where each expert had"):
        load_adapter(packed_model("mixtral"), old)
    theirs = load_in_peft(plain_model("mixtral"), old)
    save_from_peft(theirs, new)
    ours = packed_model("mixtral")
    load_adapter(ours, new)
    assert relative_error(logits(ours), logits(theirs)) <= LOGITS_FLOAT32
    assert relative_error(logits(ours), logits(packed_model("mixtral"))) > 1e-2
