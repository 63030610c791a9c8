"""Which parameters decay is Trainer's choice; which learn faster with LoRA+ is PEFT's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from lorakit.adapters.attach import attach_adapter
from lorakit.errors import InputError
from lorakit.optimizers.groups import Group, decayed_names, parameter_groups
from lorakit.recipe import LoraConfig
from tests import tiny


def test_decay_is_trainer_s(tmp_path) -> None:
    model = tiny.model("gpt2", n_embd=32, n_layer=1, n_head=2)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    named = {name for name, _ in model.named_parameters()}
    assert decayed_names(model) == named & set(trainer.get_decay_parameter_names(model))


class _AdaptedEmbedding(nn.Module):
    """As adapters do it: the frozen layer beside the factors."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Embedding(10, 4).requires_grad_(False)
        self.adapter = nn.ParameterDict(
            {"lora_A": torch.zeros(2, 10), "lora_B": torch.zeros(4, 2), "magnitude": torch.ones(4)}
        )


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
    model = tiny.model()
    attach_adapter(
        model,
        LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, modules_to_save=["model.norm"]),
    )
    model.add_module("words", _AdaptedEmbedding())
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    groups = parameter_groups(
        model, parameters, learning_rate=rate, loraplus_lr_ratio=ratio, **options
    )
    kinds = {
        "linear A": "q_proj.adapter.lora_A",
        "linear B": "q_proj.adapter.lora_B",
        "linear magnitude": "q_proj.adapter.lora_magnitude_vector",
        "embedding A": "words.adapter.lora_A",
        "embedding B": "words.adapter.lora_B",
        "norm": "norm.trained.weight",
    }
    for kind, part in kinds.items():
        factors = {group.lr_factor for name, group in groups.items() if part in name}
        assert [factor * rate for factor in factors] == [pytest.approx(expected[kind])], kind


def test_a_vector_of_an_adapted_embedding_goes_with_b() -> None:
    # PEFT's DoRA keeps the magnitude in a module of its own, so it is no part of the embedding.
    groups = parameter_groups(
        nn.ModuleDict({"words": _AdaptedEmbedding(), "q": _linear()}),
        {"words.adapter.magnitude": torch.ones(4), "q.lora_B": torch.zeros(3, 2)},
        learning_rate=1e-3,
        loraplus_lr_ratio=8.0,
    )
    assert {group.lr_factor for group in groups.values()} == {8.0}


def _linear() -> nn.Module:
    module = nn.Module()
    module.lora_A, module.lora_B = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(3, 2))
    return module


def test_without_loraplus_all_learn_alike_and_decay_is_the_same_with_it() -> None:
    model = nn.ModuleDict({"words": _AdaptedEmbedding(), "q": _linear(), "norm": nn.LayerNorm(3)})
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    plain = parameter_groups(model, parameters, learning_rate=1e-3)
    plus = parameter_groups(model, parameters, learning_rate=1e-3, loraplus_lr_ratio=16.0)
    assert {group.lr_factor for group in plain.values()} == {1.0}
    assert {n: g.decays for n, g in plain.items()} == {n: g.decays for n, g in plus.items()}
    assert {n for n, g in plain.items() if not g.decays} == {"norm.weight", "norm.bias"}


def test_trained_embeddings_keep_whole_floats() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(10, 4), "q": _linear()})
    groups = parameter_groups(model, dict(model.named_parameters()), learning_rate=1e-3)
    assert groups["words.weight"] == Group(decays=True, whole_floats=True)
    assert not groups["q.lora_A"].whole_floats


def test_loraplus_options_that_nothing_answers_to_are_refused() -> None:
    only_norm = nn.ModuleDict({"norm": nn.LayerNorm(3), "words": _AdaptedEmbedding()})
    parameters = {n: p for n, p in only_norm.named_parameters() if p.requires_grad}
    with pytest.raises(InputError, match=r"loraplus_lr_ratio 16 .* no trained parameter is one"):
        parameter_groups(only_norm, parameters, learning_rate=1e-3, loraplus_lr_ratio=16.0)
    model = nn.ModuleDict({"q": _linear()})
    with pytest.raises(InputError, match=r"loraplus_lr_embedding 1e-05 .* no embedding is adapted"):
        parameter_groups(
            model,
            dict(model.named_parameters()),
            learning_rate=1e-3,
            loraplus_lr_ratio=16.0,
            loraplus_lr_embedding=1e-5,
        )
