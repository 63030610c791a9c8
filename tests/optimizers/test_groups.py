"""Which parameters decay is Trainer's choice; which learn faster with LoRA+ is PEFT's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from lorakit.adapters.attach import attach_adapter
from lorakit.errors import InputError
from lorakit.optimizers.groups import decayed_names, parameter_groups
from lorakit.recipe import LoraConfig
from tests import tiny


def test_decay_is_trainer_s(tmp_path) -> None:
    model = tiny.model("gpt2", n_embd=32, n_layer=1, n_head=2)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    named = {name for name, _ in model.named_parameters()}
    assert decayed_names(model) == named & set(trainer.get_decay_parameter_names(model))


def _peft_s(rate: float, ratio: float, **options: float) -> dict[str, float]:
    """{what: learning rate} that PEFT gives the factors and vectors of a DoRA model with an adapted
    embedding.
    """
    peft = pytest.importorskip("peft")
    from peft.optimizers import create_loraplus_optimizer

    model = peft.get_peft_model(
        tiny.model(),
        peft.LoraConfig(
            r=2,
            target_modules=["q_proj", "embed_tokens"],
            use_dora=True,
            modules_to_save=["model.norm"],
        ),
    )
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=ratio, **options
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr"]
    kinds = {
        "linear A": "q_proj.lora_A",
        "linear B": "q_proj.lora_B",
        "linear magnitude": "q_proj.lora_magnitude_vector",
        "embedding A": "embed_tokens.lora_embedding_A",
        "embedding B": "embed_tokens.lora_embedding_B",
        "embedding magnitude": "embed_tokens.lora_magnitude_vector",
        "norm": "modules_to_save",
    }
    return {
        kind: next(value for name, value in rates.items() if part in name)
        for kind, part in kinds.items()
    }


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("ratio", [1.0, 16.0])
@pytest.mark.parametrize("embedding", [None, 3e-5])
def test_loraplus_rates_are_peft_s(ratio: float, embedding: float | None) -> None:
    rate = 2e-4
    options = {} if embedding is None else {"loraplus_lr_embedding": embedding}
    expected = _peft_s(rate, ratio, **options)
    model, parameters = _adapted(
        target_modules=["q_proj", "embed_tokens"], use_dora=True, modules_to_save=["model.norm"]
    )
    groups = parameter_groups(
        model, parameters, learning_rate=rate, loraplus_lr_ratio=ratio, **options
    )
    assert groups.keys() == parameters.keys()
    kinds = {
        "linear A": "q_proj.adapter.lora_A",
        "linear B": "q_proj.adapter.lora_B",
        "linear magnitude": "q_proj.adapter.lora_magnitude_vector",
        "embedding A": "embed_tokens.adapter.lora_A",
        "embedding B": "embed_tokens.adapter.lora_B",
        "embedding magnitude": "embed_tokens.adapter.lora_magnitude_vector",
        "norm": "norm.trained.weight",
    }
    for kind, part in kinds.items():
        factors = {group.lr_factor for name, group in groups.items() if part in name}
        assert [factor * rate for factor in factors] == [pytest.approx(expected[kind])], kind


def _adapted(**options: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A tiny model with an adapter, and what trains of it."""
    model = tiny.model()
    adapter = attach_adapter(model, LoraConfig(r=2, **options))
    return model, dict(adapter.parameters())


def test_without_loraplus_all_learn_alike_and_decay_is_the_same_with_it() -> None:
    model, parameters = _adapted(use_dora=True, modules_to_save=["model.norm"])
    plain = parameter_groups(model, parameters, learning_rate=1e-3)
    plus = parameter_groups(model, parameters, learning_rate=1e-3, loraplus_lr_ratio=16.0)
    assert {group.lr_factor for group in plain.values()} == {1.0}
    assert {group.lr_factor for group in plus.values()} == {1.0, 16.0}
    assert {n: g.decays for n, g in plain.items()} == {n: g.decays for n, g in plus.items()}
    assert {n for n, g in plain.items() if not g.decays} == {"model.norm.trained.weight"}


def test_what_trains_of_embeddings_keeps_whole_floats() -> None:
    for options in (
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ):
        model, parameters = _adapted(**options)
        groups = parameter_groups(model, parameters, learning_rate=1e-3)
        whole = {name for name, group in groups.items() if group.whole_floats}
        assert whole == {name for name in parameters if "embed_tokens" in name} != set()
    rows = _adapted(target_modules=["q_proj"], trainable_token_indices=[3, 7])
    plus = parameter_groups(*rows, learning_rate=1e-3, loraplus_lr_ratio=16.0)
    # PEFT counts trained rows among the parameters that learn at the plain rate.
    assert [g.lr_factor for name, g in plus.items() if "embed_tokens" in name] == [1.0]


def test_loraplus_options_that_nothing_answers_to_are_refused() -> None:
    model, parameters = _adapted(modules_to_save=["model.norm"], target_modules=["q_proj"])
    only_norm = {name: p for name, p in parameters.items() if "norm" in name}
    with pytest.raises(InputError, match=r"loraplus_lr_ratio 16 .* no trained parameter is one"):
        parameter_groups(model, only_norm, learning_rate=1e-3, loraplus_lr_ratio=16.0)
    with pytest.raises(InputError, match=r"loraplus_lr_embedding 1e-05 .* no embedding is adapted"):
        parameter_groups(
            model,
            parameters,
            learning_rate=1e-3,
            loraplus_lr_ratio=16.0,
            loraplus_lr_embedding=1e-5,
        )
