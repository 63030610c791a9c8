"""Laws over every kind, init, storage and a few families: what attaching may and may not change."""

from __future__ import annotations

import pytest
import torch

from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.modules import AdaptedLinear
from lorakit.adapters.save import gather_tensors
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from tests.adapters.bases import (
    FAMILIES,
    KINDS,
    STORAGES,
    Load,
    attach_init,
    every_variant,
    logits,
    mostly_slow,
    perturb,
    token_ids,
    variants_with_inits,
)
from tests.tolerances import IDENTITY, relative_error


@pytest.mark.parametrize(("storage", "kind", "init"), mostly_slow(variants_with_inits()))
def test_attaching_changes_nothing(load: Load, storage: str, kind: str, init: bool | str) -> None:
    """But for an init that brings a quantized base closer to the original weights."""
    for family in FAMILIES:
        model = load(family, storage)
        before = logits(model)
        adapter = attach_init(model, init, kind=kind, lora_alpha=4)
        if adapter.start_errors:
            assert adapter.start_errors.keys() == adapter.adapted.keys(), family
            assert all(error.ratio < 1 for error in adapter.start_errors.values()), family
        else:
            assert relative_error(logits(model), before) <= IDENTITY, family
        if kind == "lora" and not adapter.kept_starts():
            assert torch.equal(logits(model), before), family


@pytest.mark.parametrize(("family", "storage", "kind", "use_rslora"), every_variant())
def test_every_parameter_gets_a_gradient_and_the_base_stays(
    load: Load, family: str, storage: str, kind: str, use_rslora: bool
) -> None:
    model = load(family, storage)
    frozen = {id(tensor): tensor.clone() for tensor in tensors_of(model)}
    adapter = attach_adapter(model, LoraConfig(kind=kind, r=4, use_rslora=use_rslora))
    perturb(model)
    model(token_ids(), labels=token_ids()).loss.backward()
    for name, parameter in adapter.parameters().items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(adapter.parameters())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    kept = [tensor for tensor in tensors_of(model) if id(tensor) in frozen]
    assert len(kept) == len(frozen)
    assert all(torch.equal(tensor, frozen[id(tensor)]) for tensor in kept)


def tensors_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


@pytest.mark.parametrize(("family", "storage", "kind", "use_rslora"), every_variant())
def test_disabled_is_the_base(
    load: Load, family: str, storage: str, kind: str, use_rslora: bool
) -> None:
    model = load(family, storage)
    before = logits(model)
    attach_adapter(model, LoraConfig(kind=kind, r=4, use_rslora=use_rslora))
    perturb(model)
    adapted = logits(model)
    assert relative_error(adapted, before) > 1e-3
    with adapter_disabled(model):
        assert torch.equal(logits(model), before)
        with adapter_disabled(model):
            assert torch.equal(logits(model), before)
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), adapted)


def test_disabled_switches_everything_back_after_an_error(load: Load) -> None:
    model = load("qwen2")
    before = logits(model)
    config = LoraConfig(r=4, bias="all", modules_to_save=["lm_head", "model.norm"])
    attach_adapter(model, config)
    perturb(model)
    adapted = logits(model)
    with pytest.raises(KeyError), adapter_disabled(model):
        assert torch.equal(logits(model), before)
        raise KeyError
    assert torch.equal(logits(model), adapted)


@pytest.mark.parametrize(("family", "storage", "kind", "use_rslora"), every_variant())
def test_save_load_save_gives_equal_bytes_and_logits(
    load: Load, tmp_path, family: str, storage: str, kind: str, use_rslora: bool
) -> None:
    model = load(family, storage)
    config = LoraConfig(
        kind=kind,
        r=4,
        use_rslora=use_rslora,
        rank_pattern={r"layers\.0\..*": 2} if family != "gpt2" else {"c_attn": 2},
        alpha_pattern={"q_proj": 3} if family != "gpt2" else {"c_fc": 3},
    )
    attach_adapter(model, config)
    perturb(model)
    save_adapter(model, tmp_path / "one")
    again = load(family, storage)
    load_adapter(again, tmp_path / "one")
    assert torch.equal(logits(again), logits(model))
    again.save_pretrained(tmp_path / "two")
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("storage", STORAGES)
def test_parts_beside_the_adapter_train(load: Load, storage: str, dtype: torch.dtype) -> None:
    model = load("qwen2", storage, dtype)
    before = logits(model)
    saved = ["lm_head", "embed_tokens", "model.norm", "layers.1.mlp.up_proj"]
    adapter = attach_adapter(model, LoraConfig(r=4, bias="all", modules_to_save=saved))
    assert torch.equal(logits(model), before)
    perturb(model)
    model(token_ids(), labels=token_ids()).loss.backward()
    for name, parameter in adapter.parameters().items():
        assert parameter.dtype == (dtype if name in adapter.biases else torch.float32), name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    with adapter_disabled(model):
        assert torch.equal(logits(model), before)


def test_parts_beside_the_adapter_are_saved_and_loaded(load: Load, tmp_path) -> None:
    config = LoraConfig(r=4, bias="all", modules_to_save=["lm_head", "model.norm"])
    model = load("qwen2", dtype=torch.bfloat16)
    attach_adapter(model, config)
    perturb(model)
    save_adapter(model, tmp_path)
    again = load("qwen2", dtype=torch.bfloat16)
    adapter = load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert adapter.modules["lm_head"].trained.weight.dtype == torch.float32
    tensors = gather_tensors(adapter)
    assert "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias" in tensors
    assert "base_model.model.model.norm.weight" in tensors


@pytest.mark.parametrize("kind", KINDS)
def test_the_init_does_not_depend_on_the_other_layers(load: Load, kind: str) -> None:
    whole = attach_adapter(load("llama"), LoraConfig(kind=kind, r=4), seed=3)
    name = "model.layers.1.mlp.up_proj"
    alone = attach_adapter(load("llama"), LoraConfig(kind=kind, r=4, target_modules=[name]), seed=3)
    other = attach_adapter(load("llama"), LoraConfig(kind=kind, r=4, target_modules=[name]), seed=4)
    lora_A = whole.modules[name].adapter.lora_A
    assert torch.equal(lora_A, alone.modules[name].adapter.lora_A)
    assert not torch.equal(lora_A, other.modules[name].adapter.lora_A)
    assert not torch.equal(lora_A, whole.modules["model.layers.0.mlp.up_proj"].adapter.lora_A)


@pytest.mark.parametrize("kind", KINDS)
def test_attaches_on_the_meta_device(kind: str, load: Load, folders) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folders["llama"]))
    config = LoraConfig(kind=kind, r=4, modules_to_save=["lm_head"])
    on_meta = attach_adapter(empty, config)
    real = attach_adapter(load("llama"), config)
    assert all(parameter.is_meta for parameter in on_meta.parameters().values())
    assert (on_meta.trainable, on_meta.total) == (real.trainable, real.total)
    assert on_meta.adapted == real.adapted


def test_a_second_adapter_is_refused(load: Load) -> None:
    model = load("llama")
    attach_adapter(model, LoraConfig(r=4))
    with pytest.raises(AdapterError, match=r"has an adapter already.*lorakit\.merge"):
        attach_adapter(model, LoraConfig(r=4))


def test_the_adapted_layer_looks_like_a_linear_layer(load: Load) -> None:
    model = load("qwen2")
    plain = model.model.layers[0].self_attn.q_proj
    weight, bias = plain.weight, plain.bias
    attach_adapter(model, LoraConfig(r=4))
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, AdaptedLinear)
    assert (layer.in_features, layer.out_features) == (plain.in_features, plain.out_features)
    assert torch.equal(layer.weight, weight) and layer.bias is bias
    perturb(model)
    x = torch.randn(3, layer.in_features)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert relative_error(layer(x), expected) < 1e-6
