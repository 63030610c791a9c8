"""Must-show 2: outputs and gradients equal PEFT's, in both directions, dense and NF4."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.recipe import LoraConfig
from tests import tiny
from tests.adapters.bases import Load, every_variant, logits, perturb, token_ids
from tests.adapters.peers import load_in_peft, make_in_peft, save_from_peft
from tests.tolerances import GRADIENT_FLOAT32, LOGITS_FLOAT32, relative_error

# What PEFT's LoraConfig is given: targets in every form, patterns, biases, modules in full.
PEFT_CONFIGS = {
    "all-linear": {"target_modules": "all-linear"},
    "list": {"target_modules": ["q_proj", "down_proj"], "lora_alpha": 3},
    "regex": {"target_modules": r".*\.layers\.0\..*(q|v)_proj"},
    "one layer": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    "layers of a list": {
        "target_modules": ["q_proj", "v_proj"],
        "layers_to_transform": 0,
        "layers_pattern": "layers",
    },
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 3},
        "alpha_pattern": {"v_proj": 5},
    },
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "bias of targets": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "all biases": {"target_modules": ["q_proj", "up_proj"], "bias": "all"},
    "in full": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm"]},
    "a list of names in full": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "names that match nothing": {
        "target_modules": ["q_proj", "v_proj", "fc1"],
        "exclude_modules": ["nothing"],
        "layers_to_transform": [1, 9],
        "rank_pattern": {"fc1": 2},
    },
    "no targets named": {"target_modules": None},
}


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same base without a lorakit module: packed weights become what they stand for."""
    fresh = tiny.model(model.config.model_type)
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear):
            target = fresh.get_submodule(name)
            assert isinstance(target, nn.Linear | Conv1D)
            weight = module.weight.t() if isinstance(target, Conv1D) else module.weight
            target.weight.data = weight.detach().clone()
    rest = {name: t for name, t in model.state_dict().items() if ".stored." not in name}
    fresh.load_state_dict(rest, strict=False)
    return fresh


@pytest.mark.parametrize(("family", "storage", "kind", "use_rslora"), every_variant())
def test_ours_loads_in_peft(
    load: Load, tmp_path: Path, family: str, storage: str, kind: str, use_rslora: bool
) -> None:
    model = load(family, storage)
    base = plain(model)
    assert relative_error(logits(base), logits(model)) < 1e-6
    attach_adapter(model, LoraConfig(kind=kind, r=4, lora_alpha=6, use_rslora=use_rslora))
    perturb(model)
    save_adapter(model, tmp_path)
    in_peft = load_in_peft(base, tmp_path)
    assert relative_error(logits(in_peft), logits(model)) <= LOGITS_FLOAT32


@pytest.mark.parametrize("name", PEFT_CONFIGS)
def test_theirs_loads_here_and_goes_back_unchanged(load: Load, tmp_path: Path, name: str) -> None:
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", **PEFT_CONFIGS[name])
    theirs = make_in_peft(plain(load("qwen2")), config)
    save_from_peft(theirs, tmp_path / "theirs")
    model = load("qwen2")
    load_adapter(model, tmp_path / "theirs")
    assert relative_error(logits(model), logits(theirs)) <= LOGITS_FLOAT32
    save_adapter(model, tmp_path / "ours")
    one = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    two = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    back = load_in_peft(plain(load("qwen2")), tmp_path / "ours")
    assert relative_error(logits(back), logits(theirs)) <= LOGITS_FLOAT32


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_gradients_are_peft_s(
    load: Load, tmp_path: Path, family: str, kind: str, use_rslora: bool
) -> None:
    model = load(family)
    config = LoraConfig(kind=kind, r=4, use_rslora=use_rslora)
    adapter = attach_adapter(model, config)
    perturb(model)
    save_adapter(model, tmp_path)
    theirs = load_in_peft(plain(load(family)), tmp_path)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("lora_" in name)
    ids = token_ids()
    model(ids, labels=ids).loss.backward()
    theirs(input_ids=ids, labels=ids).loss.backward()
    by_name = dict(theirs.named_parameters())
    compared = 0
    for name, module in adapter.modules.items():
        for suffix, parameter in module.adapter.peft_tensors().items():
            stem = suffix.removesuffix(".weight")
            other = by_name[f"base_model.model.{name}.{stem}.default.weight"]
            assert relative_error(parameter.grad, other.grad) <= GRADIENT_FLOAT32, (name, suffix)
            compared += 1
    assert compared == len(adapter.parameters())


def test_overlapping_patterns_survive_peft_s_sorting(load: Load, tmp_path: Path) -> None:
    """The written order decides here; PEFT reads the sorted file, where another key would win."""
    full = "model.layers.0.self_attn.q_proj"
    config = LoraConfig(
        r=4,
        rank_pattern={"q_proj": 2, full: 3},
        alpha_pattern={"q_proj": 32, full: 4, r".*_proj": 9},
    )
    model = load("qwen2")
    adapter = attach_adapter(model, config)
    assert adapter.adapted[full].r == 2 and adapter.adapted[full].scaling == 16
    perturb(model)
    save_adapter(model, tmp_path)
    again = load("qwen2")
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    theirs = load_in_peft(plain(load("qwen2")), tmp_path)
    assert relative_error(logits(theirs), logits(model)) <= LOGITS_FLOAT32


def test_ranks_that_peft_s_sorting_hides_are_read_from_the_tensors(
    load: Load, tmp_path: Path
) -> None:
    """PEFT trains the first pattern written, saves them sorted, and cannot load its own file."""
    config = peft.LoraConfig(
        r=4, target_modules="all-linear", rank_pattern={"q_proj": 2, "model.layers.0.*": 3}
    )
    theirs = make_in_peft(plain(load("llama")), config)
    save_from_peft(theirs, tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_in_peft(plain(load("llama")), tmp_path)
    model = load("llama")
    adapter = load_adapter(model, tmp_path)
    assert adapter.adapted["model.layers.0.self_attn.q_proj"].r == 2
    assert relative_error(logits(model), logits(theirs)) <= LOGITS_FLOAT32
    save_adapter(model, tmp_path)
    back = load_in_peft(plain(load("llama")), tmp_path)
    assert relative_error(logits(back), logits(theirs)) <= LOGITS_FLOAT32


def test_alphas_that_peft_s_sorting_hides_are_taken_as_peft_does_and_told(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = peft.LoraConfig(
        r=4, target_modules="all-linear", alpha_pattern={"q_proj": 2, "model.layers.0.*": 3}
    )
    theirs = make_in_peft(plain(load("llama")), config)
    save_from_peft(theirs, tmp_path)
    reloaded = load_in_peft(plain(load("llama")), tmp_path)
    assert relative_error(logits(reloaded), logits(theirs)) > 1e-4
    model = load("llama")
    load_adapter(model, tmp_path)
    assert relative_error(logits(model), logits(reloaded)) <= LOGITS_FLOAT32
    assert "alpha_pattern gives 1 modules several values" in caplog.text
    caplog.clear()
    save_adapter(model, tmp_path)
    load_adapter(load("llama"), tmp_path)
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def test_an_adapter_in_a_named_subfolder_loads(load: Load, tmp_path: Path) -> None:
    theirs = make_in_peft(plain(load("llama")), peft.LoraConfig(target_modules=["q_proj"]))
    save_from_peft(theirs, tmp_path / "below")
    model = load("llama")
    load_adapter(model, tmp_path)
    assert relative_error(logits(model), logits(theirs)) <= LOGITS_FLOAT32


def test_names_of_older_peft_versions_load(load: Load, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config = peft.LoraConfig(target_modules=["q_proj"], use_dora=True)
    theirs = make_in_peft(plain(load("llama")), config)
    save_from_peft(theirs, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    magnitude = "lora_magnitude_vector"
    assert any(name.endswith(magnitude) for name in tensors)
    older = {k + ".weight" if k.endswith(magnitude) else k: v for k, v in tensors.items()}
    save_file(older, path)
    model = load("llama")
    load_adapter(model, tmp_path)
    assert relative_error(logits(model), logits(theirs)) <= LOGITS_FLOAT32


@pytest.mark.slow
def test_a_real_adapter_for_gpt2(shared_data: Path) -> None:
    """gpt2-tigrinya-lora (r 8, Conv1D, fan_in_fan_out) on random weights of GPT-2's real shape."""
    folder = shared_data / "adapters" / "gpt2-tigrinya-lora"
    shape = {
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
    }
    model, base = tiny.model("gpt2", **shape), tiny.model("gpt2", **shape)
    before = logits(model)
    adapter = load_adapter(model, folder)
    assert len(adapter.adapted) == 36 and all(facts.r == 8 for facts in adapter.adapted.values())
    assert relative_error(logits(model), before) > 1e-3
    theirs = load_in_peft(base, folder)
    assert relative_error(logits(model), logits(theirs)) <= LOGITS_FLOAT32
