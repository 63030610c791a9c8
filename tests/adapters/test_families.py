"""The laws over every model family of the tests' table, with PEFT as the judge of what is saved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.families import EXPERT_NAMES
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from lorakit.ship.merge import merge
from tests import families
from tests.adapters.bases import KINDS, logits, perturb, token_ids
from tests.adapters.peers import load_in_peft
from tests.tolerances import IDENTITY, LOGITS_FLOAT32, relative_error

# Families differ in their modules, not in what a kind does to one: the other kinds are slow tests.
FAST = "lora"
KIND_PARAMETERS = [
    pytest.param(kind, marks=[] if kind == FAST else pytest.mark.slow) for kind in KINDS
]


@pytest.mark.parametrize("kind", KIND_PARAMETERS)
@pytest.mark.parametrize("model_type", sorted(families.FAMILIES))
def test_laws(model_type: str, kind: str, tmp_path) -> None:
    model = families.build(model_type)
    before = logits(model)
    experts = None if kind == "lora" else []  # they have plain LoRA only
    adapter = attach_adapter(model, LoraConfig(kind=kind, r=4, target_parameters=experts))
    assert relative_error(logits(model), before) <= IDENTITY
    perturb(model)
    adapted = logits(model)
    assert relative_error(adapted, before) > 1e-2

    ids = token_ids()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    for name, parameter in adapter.parameters().items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name

    with adapter_disabled(model):
        assert relative_error(logits(model), before) <= IDENTITY
    assert relative_error(logits(merge(model)), adapted) <= LOGITS_FLOAT32

    save_adapter(model, tmp_path)
    again = families.build(model_type)
    load_adapter(again, tmp_path)
    assert relative_error(logits(again), adapted) <= IDENTITY
    in_peft = load_in_peft(families.build(model_type), tmp_path)
    assert relative_error(logits(in_peft), adapted) <= LOGITS_FLOAT32


def test_names_that_peft_takes_for_experts_are_peft_s() -> None:
    from peft.utils import transformers_weight_conversion as peft_table
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    by_pattern = {
        pattern: {
            model_type
            for model_type, name in peft_table._MODEL_TO_CONVERSION_PATTERN.items()
            if name == pattern
            and model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            and get_checkpoint_conversion_mapping(model_type) is not None
        }
        for pattern in peft_table._MOE_TARGET_MODULE_MAPPING
    }
    theirs = {
        (tuple(sorted(by_pattern[pattern])), tuple(sorted(names)))
        for pattern, names in peft_table._MOE_TARGET_MODULE_MAPPING.items()
    }
    assert set(EXPERT_NAMES.items()) == theirs


def test_a_layer_that_peft_would_take_for_experts_is_named_by_its_weight(tmp_path) -> None:
    model = families.build("deepseek_v3", initializer_range=0.1)
    adapter = attach_adapter(model, LoraConfig(r=4, rank_pattern={"mlp.up_proj.weight": 2}))
    for name in ("layers.0.mlp.up_proj", "layers.1.mlp.shared_experts.down_proj"):
        assert f"model.{name}" in adapter.adapted
    assert adapter.adapted["model.layers.0.mlp.up_proj"].r == 2
    perturb(model)
    save_adapter(model, tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    leaves = {name.rpartition(".")[2] for name in values["target_modules"]}
    assert leaves & {"gate_proj", "up_proj", "down_proj"} == set()
    assert {"experts.gate_up_proj", "down_proj.weight"} <= set(values["target_parameters"])
    again = families.build("deepseek_v3", initializer_range=0.1)
    load_adapter(again, tmp_path)
    assert relative_error(logits(again), logits(model)) <= IDENTITY
    in_peft = load_in_peft(families.build("deepseek_v3", initializer_range=0.1), tmp_path)
    assert relative_error(logits(in_peft), logits(model)) <= LOGITS_FLOAT32


def test_what_has_no_place_in_target_parameters_is_left_out_or_refused() -> None:
    model = families.build("deepseek_v3")
    with pytest.raises(AdapterError, match="PEFT takes up_proj for the experts of deepseek_v3"):
        attach_adapter(model, LoraConfig(target_modules=["up_proj"], use_dora=True))
    adapter = attach_adapter(model, LoraConfig(r=4, target_parameters=[], lora_dropout=0.1))
    assert adapter.not_adapted["model.layers.0.mlp.up_proj"] == (
        "PEFT takes up_proj for the experts of deepseek_v3, which have no lora_dropout 0.1"
    )


def test_experts_are_adapted_and_what_is_left_of_them_has_a_reason() -> None:
    adapter = attach_adapter(families.build("mixtral"), LoraConfig(r=4))
    assert adapter.adapted["model.layers.0.mlp.experts.gate_up_proj"].shape == (4, 128, 32)
    adapter = attach_adapter(families.build("mixtral"), LoraConfig(r=4, target_parameters=[]))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert adapter.not_adapted[name] == "not in target_parameters"


def test_every_large_parameter_is_adapted_or_has_a_reason() -> None:
    for model_type in ("mixtral", "mamba", "gpt2", "phimoe", "gpt_oss", "jetmoe"):
        model = families.build(model_type)
        large = {name for name, parameter in model.named_parameters() if parameter.dim() >= 2}
        adapter = attach_adapter(model, LoraConfig(r=4))
        told = adapter.adapted.keys() | adapter.not_adapted.keys()
        told |= {f"{name}.weight" for name in told}
        assert large <= told, large - told


@pytest.mark.slow
def test_the_table_in_the_docs_is_current() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "scripts/family_table.py", "--check"]
    subprocess.run(command, cwd=root, check=True)
