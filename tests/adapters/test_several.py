"""Several adapters on one base: at any moment the model is the one with the adapter in use."""

from __future__ import annotations

import copy
import hashlib
import itertools
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import lorakit
from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.attached import attached
from lorakit.adapters.mixed import adapters_by_row
from lorakit.adapters.several import adapter_names, drop_adapter, use_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from tests import families
from tests.adapters.bases import (
    FAMILIES,
    KINDS,
    PART_OF_BASE,
    STORAGES,
    Load,
    attach_init,
    logits,
    perturb,
    token_ids,
)
from tests.tolerances import IDENTITY, relative_error

FILES = ("adapter_model.safetensors", "adapter_config.json", "README.md")
SOME = {"llama": ["q_proj", "down_proj"], "qwen2": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}
HEAD = {"llama": "model.norm", "qwen2": "lm_head", "gpt2": "ln_f"}


def two(family: str, kind: str) -> dict[str, LoraConfig]:
    """Two that meet in some modules and not in others, with all that may stand beside."""
    other = next((one for one in KINDS if one != kind), kind)
    return {
        "a": LoraConfig(kind=kind, r=4, modules_to_save=[HEAD[family]]),
        "b": LoraConfig(
            kind=other,
            r=2,
            target_modules=SOME[family],
            trainable_token_indices=[7, 9],
            bias="none" if family == "llama" else "all",
        ),
    }


def saved(load: Load, root: Path, family: str, storage: str, kind: str) -> dict[str, torch.Tensor]:
    """Each alone, trained for a step of sorts and saved below `root`; {name: its logits}."""
    alone = {}
    for seed, (name, config) in enumerate(two(family, kind).items()):
        model = load(family, storage)
        attach_adapter(model, config, seed=seed)
        perturb(model, seed=seed)
        save_adapter(model, root / name)
        alone[name] = logits(model)
    return alone


def fingerprint(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# Every kind in every storage; the other families where a forward pass is quickest.
CASES = [
    *itertools.product(["qwen2"], STORAGES, KINDS),
    *itertools.product([family for family in FAMILIES if family != "qwen2"], ["none"], KINDS),
]


@pytest.mark.parametrize(("family", "storage", "kind"), CASES)
def test_each_is_what_it_is_alone(
    load: Load, tmp_path, family: str, storage: str, kind: str
) -> None:
    """Whatever the order of loading; switched, saved, dropped."""
    alone = saved(load, tmp_path, family, storage, kind)
    base = load(family, storage)
    untouched, before = logits(base), fingerprint(base)
    states = {}
    for name in alone:
        load_adapter(base, tmp_path / name, name=name)
        states[name] = fingerprint(base)
        if len(states) == 1:
            drop_adapter(base, name)
            assert fingerprint(base) == before
            assert torch.equal(logits(base), untouched)
    load_adapter(base, tmp_path / "a", name="a")
    assert adapter_names(base) == ["a", "b"]
    other = load(family, storage)
    for name in ("a", "b"):
        load_adapter(other, tmp_path / name, name=name)
    assert adapter_names(other) == ["b", "a"]
    for model, name in itertools.product((base, other), ("a", "b", "a")):
        use_adapter(model, name)
        assert torch.equal(logits(model), alone[name])
        assert fingerprint(model) == states[name]
        with adapter_disabled(model):
            assert torch.equal(logits(model), untouched)
        save_adapter(model, tmp_path / "again")
        for file in FILES:
            again, first = tmp_path / "again" / file, tmp_path / name / file
            assert again.read_bytes() == first.read_bytes()
    drop_adapter(base, "b")
    assert adapter_names(base) == ["a"] and torch.equal(logits(base), alone["a"])
    drop_adapter(base, "a")
    assert adapter_names(base) == [] and fingerprint(base) == before


@pytest.mark.parametrize("storage", STORAGES)
def test_a_thousand_switches_change_no_byte(load: Load, tmp_path, storage: str) -> None:
    saved(load, tmp_path, "qwen2", storage, "dora")
    model = load("qwen2", storage)
    for name in ("a", "b"):
        load_adapter(model, tmp_path / name, name=name)
    frozen = fingerprint(model), [tensor.data_ptr() for tensor in tensors(model)]
    for _ in range(500):
        use_adapter(model, "a")
        use_adapter(model, "b")
    assert (fingerprint(model), [tensor.data_ptr() for tensor in tensors(model)]) == frozen


def tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def test_the_base_is_there_once(load: Load) -> None:
    model = load("llama", "nf4")
    frozen = {tensor.data_ptr() for tensor in tensors(model)}
    for name in ("a", "b", "c"):
        attach_adapter(model, LoraConfig(r=2), name=name)
        assert frozen <= {tensor.data_ptr() for tensor in tensors(model)}


def test_only_the_one_in_use_trains_as_if_alone(load: Load, tmp_path) -> None:
    """What a third-party trainer sees: its parameters, its gradients, its checkpoint."""
    saved(load, tmp_path, "qwen2", "none", "lora")
    alone = load("qwen2")
    load_adapter(alone, tmp_path / "a")
    model = load("qwen2")
    resting = load_adapter(model, tmp_path / "b", name="b")
    load_adapter(model, tmp_path / "a", name="a")
    states = []
    for one in (alone, model):
        trained = [p for p in one.parameters() if p.requires_grad]
        assert len(trained) == len(attached(one).parameters())
        optimizer = torch.optim.SGD(trained, lr=0.1)
        one(token_ids(), labels=token_ids()).loss.backward()
        optimizer.step()
        one.save_pretrained(tmp_path / "trained", state_dict=one.state_dict())
        states.append((tmp_path / "trained" / FILES[0]).read_bytes())
    assert states[0] == states[1]
    assert all(p.grad is None for p in resting.parameters().values())
    use_adapter(model, "b")
    assert all(p.requires_grad and p.grad is None for p in resting.parameters().values())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {*resting.parameters()}


def test_merge_takes_the_one_in_use(load: Load, tmp_path) -> None:
    alone = saved(load, tmp_path, "llama", "none", "dora")
    model = load("llama")
    for name in alone:
        load_adapter(model, tmp_path / name, name=name)
    use_adapter(model, "a")
    merged = lorakit.merge(model)
    assert not any("lorakit" in type(module).__module__ for module in merged.modules())
    assert adapter_names(merged) == []
    assert torch.allclose(logits(merged), alone["a"], atol=1e-5)
    use_adapter(model, "b")
    assert torch.equal(logits(model), alone["b"])


def test_a_resting_adapter_follows_the_models_mode_and_copies(load: Load, tmp_path) -> None:
    alone = saved(load, tmp_path, "llama", "none", "lora")
    model = load("llama")
    for name in alone:
        load_adapter(model, tmp_path / name, name=name)
    model.train()
    use_adapter(model, "a")
    assert all(module.training for module in model.modules())
    copied = copy.deepcopy(model.eval())
    for one, name in itertools.product((copied, model), alone):
        use_adapter(one, name)
        assert not any(module.training for module in one.modules())
        assert torch.equal(logits(one), alone[name])


def test_an_adapter_may_train_what_holds_a_module_of_another(load: Load) -> None:
    model = load("llama")
    attach_adapter(model, LoraConfig(r=2, target_modules=["q_proj"]), name="a")
    attach_adapter(
        model,
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["layers.1.mlp"]),
        name="whole",
    )
    attach_adapter(model, LoraConfig(r=2, target_modules=["up_proj"]), name="inside")
    expected = {}
    for name in adapter_names(model):
        use_adapter(model, name)
        perturb(model)
        expected[name] = logits(model)
    for name, before in expected.items():
        use_adapter(model, name)
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("init", PART_OF_BASE)
def test_an_adapter_that_is_part_of_its_base_stands_alone(load: Load, init: str) -> None:
    model = load("llama", "nf4")
    attach_init(model, init)
    with pytest.raises(AdapterError, match=rf"'default' in use has init_lora_weights '{init}'"):
        attach_adapter(model, LoraConfig(r=2), name="b")
    with pytest.raises(AdapterError, match="convert_adapter"):
        drop_adapter(model, "default")
    other = load("llama", "nf4")
    attach_adapter(other, LoraConfig(r=2), name="a")
    perturb(other)
    before, state = logits(other), fingerprint(other)
    with pytest.raises(AdapterError, match=rf"'b' has init_lora_weights '{init}'"):
        attach_adapter(other, LoraConfig(r=2, init_lora_weights=init), name="b")
    assert adapter_names(other) == ["a"]
    assert torch.equal(logits(other), before) and fingerprint(other) == state


def test_what_cannot_work_is_refused_and_nothing_changes(load: Load, tmp_path) -> None:
    model = load("llama")
    with pytest.raises(AdapterError, match="has no adapter; attach one"):
        use_adapter(model, "a")
    with pytest.raises(AdapterError, match="name is empty"):
        attach_adapter(model, LoraConfig(r=2), name="")
    attach_adapter(model, LoraConfig(r=2), name="a")
    perturb(model)
    save_adapter(model, tmp_path / "a")
    attach_adapter(model, LoraConfig(r=2), name="b")
    perturb(model)
    before, state = logits(model), fingerprint(model)
    refused = {
        "has an adapter already that is called 'a'": lambda: load_adapter(
            model, tmp_path / "a", name="a"
        ),
        "no adapter 'c' on this LlamaForCausalLM; possible are 'a', 'b'": lambda: use_adapter(
            model, "c"
        ),
        "adapter 'b' is in use": lambda: drop_adapter(model, "b"),
        "match no module": lambda: attach_adapter(
            model, LoraConfig(r=2, target_modules=["nowhere"]), name="c"
        ),
    }
    for message, call in refused.items():
        with pytest.raises(AdapterError, match=message):
            call()
        assert adapter_names(model) == ["b", "a"]
        assert torch.equal(logits(model), before) and fingerprint(model) == state
    with adapter_disabled(model), pytest.raises(AdapterError, match="inside adapter_disabled"):
        use_adapter(model, "a")
    assert torch.equal(logits(model), before)


def test_experts_switch_and_are_parameters_again() -> None:
    model = families.build("qwen3_moe")
    untouched, before = logits(model), fingerprint(model)
    alone = {}
    for seed, (name, r) in enumerate({"a": 2, "b": 4}.items()):
        adapter = attach_adapter(model, LoraConfig(r=r), name=name)
        assert any(".experts." in adapted for adapted in adapter.adapted)
        perturb(model, seed=seed)
        alone[name] = logits(model)
    with (
        pytest.raises(AdapterError, match=r"'a' changes '.*experts"),
        adapters_by_row(model, ["a"]),
    ):
        pass
    for name in ("a", "b", "a"):
        use_adapter(model, name)
        assert torch.equal(logits(model), alone[name])
        with adapter_disabled(model):
            assert relative_error(logits(model), untouched) <= IDENTITY
    drop_adapter(model, "b")
    drop_adapter(model, "a")
    assert torch.equal(logits(model), untouched) and fingerprint(model) == before
