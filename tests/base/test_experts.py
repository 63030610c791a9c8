"""Experts as frozen weights of any storage: they compute what transformers' own classes compute."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorakit.base import packing
from lorakit.base.empty import empty_base
from lorakit.base.frozen_experts import (
    NAMES,
    FrozenExperts,
    expert_layouts,
    parameter_name,
    put_experts,
    take_back,
)
from lorakit.base.load import load_base
from lorakit.base.meta_model import empty_model
from lorakit.base.offload import DiskWeight, HostWeight
from lorakit.base.origin import origins
from lorakit.base.storages import quantizations, storage
from lorakit.errors import ModelError
from tests import families
from tests.tolerances import GRADIENT_FLOAT32, LOGITS_FLOAT32, relative_error

STORAGES = sorted(quantizations())
# (E, O, I), (E, I, O) with biases, no gate, not in the registry, modules of their own.
KINDS_OF_EXPERTS = ("mixtral", "gpt_oss", "nemotron_h", "llama4_text", "jetmoe")
FAST = [
    pytest.param(
        model_type,
        name,
        marks=[] if name == "nf4" or model_type in KINDS_OF_EXPERTS else pytest.mark.slow,
    )
    for model_type in families.WITH_EXPERTS
    for name in STORAGES
]
IDS = torch.randint(5, 390, (2, 11), generator=torch.Generator().manual_seed(0))


def stored_experts(model: PreTrainedModel, name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model with its experts in a storage, and one with the weights that they stand for."""
    dense = copy.deepcopy(model)
    for path, layout in expert_layouts(model).items():
        parameter = dense.get_parameter(parameter_name(path, layout))
        packed = storage(name).pack(parameter, block_size=32, double_quantization=True)
        parameter.data = packed.dequantize()
        packing.replace_layer(model, path, packed)
    return model, dense


@pytest.mark.parametrize(("model_type", "name"), FAST)
def test_they_compute_what_eager_experts_compute(
    model_type: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = stored_experts(families.build(model_type), name)
    theirs.set_experts_implementation("eager")
    # Experts alone, where nothing that goes around them can hide a difference.
    owners = {path.rpartition(".")[0] for path in expert_layouts(ours) if path.endswith(NAMES)}
    inputs: dict[str, tuple[object, ...]] = {}
    handles = [
        theirs.get_submodule(owner).register_forward_pre_hook(
            lambda module, args, owner=owner: inputs.__setitem__(owner, args)
        )
        for owner in owners
    ]
    with torch.no_grad():
        expected = theirs(IDS, use_cache=False).logits
        assert relative_error(ours(IDS, use_cache=False).logits, expected) <= LOGITS_FLOAT32
    for handle in handles:
        handle.remove()
    assert inputs.keys() == owners
    for owner, args in inputs.items():
        outputs, grads = [], []
        for model in (ours, theirs):
            first = 10 * args[0].detach()  # away from the linear part of the activation
            given = first.requires_grad_(), *args[1:]
            out = model.get_submodule(owner)(*given)
            weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
            (grad,) = torch.autograd.grad((out * weights).sum(), first)
            outputs.append(out)
            grads.append(grad)
        assert relative_error(*outputs) <= LOGITS_FLOAT32
        assert relative_error(*grads) <= GRADIENT_FLOAT32


@pytest.mark.parametrize("model_type", KINDS_OF_EXPERTS)
def test_plain_again_they_are_transformers_own(model_type: str) -> None:
    model = families.build(model_type)
    names = [(name, type(module)) for name, module in model.named_modules()]
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        before = model(IDS, use_cache=False).logits
    layouts = {path: x for path, x in expert_layouts(model).items() if not x.parameter}
    for path in layouts:
        put_experts(model, path, packing.layer_at(model, path))
    for owner, _, name in (path.rpartition(".") for path in layouts):
        own = model.get_submodule(owner)._modules
        own[name] = parameters[f"{owner}.{name}"]  # type: ignore[assignment]
    take_back(model)
    model.set_experts_implementation("eager")
    assert [(name, type(module)) for name, module in model.named_modules()] == names
    assert all(model.get_parameter(name) is parameter for name, parameter in parameters.items())
    with torch.no_grad():
        assert relative_error(model(IDS, use_cache=False).logits, before) <= LOGITS_FLOAT32


@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize("model_type", KINDS_OF_EXPERTS)
def test_loading_packs_the_parameters_that_transformers_makes(
    model_type: str, name: str, family_folder
) -> None:
    folder = family_folder(model_type)
    loaded, _ = load_base(folder, quantization=name, dtype=torch.float32, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    layouts = expert_layouts(plain)
    assert expert_layouts(loaded) == layouts and layouts
    assert list(expert_layouts(loaded)) == list(layouts)  # in the order of definition
    meta = empty_base(folder, quantization=name, dtype=torch.float32)
    for path, layout in layouts.items():
        parameter = plain.get_parameter(parameter_name(path, layout))
        if name == "none":
            assert torch.equal(loaded.get_parameter(parameter_name(path, layout)), parameter)
            continue
        expected = storage(name).pack(parameter, block_size=64, double_quantization=True).tensors()
        found = loaded.get_submodule(path).stored.tensors()
        empty = meta.get_submodule(path).stored.tensors()
        assert found.keys() == expected.keys() == empty.keys()
        for part, tensor in expected.items():
            assert torch.equal(found[part], tensor)
            assert (empty[part].shape, empty[part].dtype) == (tensor.shape, tensor.dtype)
    assert parameter_name(path, layout) in origins(loaded)
    with torch.no_grad():
        loaded(IDS)


@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize("name", ["none", "nf4"])
def test_offloaded_experts_compute_the_same(name: str, where: str, family_folder) -> None:
    options = {"quantization": name, "dtype": torch.float32, "device": "cpu"}
    whole, _ = load_base(family_folder("mixtral"), **options)
    part, _ = load_base(
        family_folder("mixtral"), **options, offload=where, max_device_memory=110_000
    )
    kinds = {type(m.stored) for m in part.modules() if isinstance(m, FrozenExperts)}
    assert {"cpu": HostWeight, "disk": DiskWeight}[where] in kinds
    with torch.no_grad():
        assert relative_error(part(IDS).logits, whole(IDS).logits) <= LOGITS_FLOAT32


def test_a_checkpoint_with_another_number_of_experts_is_refused(family_folder, tmp_path) -> None:
    folder = families.folder(tmp_path / "model", "mixtral")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"num_local_experts": 4', '"num_local_experts": 3')
    )
    for name in ("none", "nf4"):
        with pytest.raises(ModelError, match=r"do not fit its config\.json"):
            load_base(folder, quantization=name, device="cpu")


def test_the_table_of_families_with_experts_is_whole() -> None:
    found = [
        model_type
        for model_type in sorted(families.FAMILIES)
        if expert_layouts(empty_model(families.config(model_type), dtype=torch.float32))
    ]
    assert found == sorted(families.WITH_EXPERTS)


def test_every_class_that_dispatches_defines_its_weights_in_our_order() -> None:
    for model_type in families.WITH_EXPERTS:
        model = empty_model(families.config(model_type), dtype=torch.float32)
        for path in expert_layouts(model):
            owner = model.get_submodule(path.rpartition(".")[0])
            names = [name for name, _ in owner.named_parameters(recurse=False) if name in NAMES]
            assert names == sorted(names, key=NAMES.index)


def test_experts_of_unknown_classes_stay_dense() -> None:
    class OwnExperts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = nn.Parameter(torch.zeros(2, 3, 4))

    assert expert_layouts(nn.ModuleDict({"experts": OwnExperts()})) == {}
