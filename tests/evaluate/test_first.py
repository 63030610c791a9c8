"""The worst of the evaluation before training: what is run, that nothing stays, what is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lorakit.adapters.attach import attach_adapter
from lorakit.errors import RunError
from lorakit.evaluate import first
from lorakit.evaluate.first import run_evaluation_first
from lorakit.recipe import EvaluateSection, LoraConfig
from tests import families
from tests.adapters.bases import perturb
from tests.plan.test_evaluation import rows

WANTED = EvaluateSection(metrics=["loss", "exact_match", "choice"], max_new_tokens=9, max_batch=3)
SETS = {"in_domain": rows([20] * 6 + [120]), "retention": rows([16] * 4)}


def model_of(model_type: str = "llama") -> Any:
    model = families.build(model_type)
    attach_adapter(model, LoraConfig(r=4, lora_dropout=0.1, target_parameters=[]))
    perturb(model)
    return model.train()


def run(model: Any) -> None:
    run_evaluation_first(model, SETS, rows([12] * 5), WANTED, seed=0, token_budget=64, packed=True)


def test_the_longest_row_and_the_largest_batch_of_answers_are_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of()
    passes: list[int] = []
    layer = model.get_input_embeddings()
    layer.register_forward_pre_hook(lambda _, args: passes.append(args[0].numel()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(model)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    # Base and tuned over the row of 120; over the largest of retention; its options; answers.
    assert passes[:2] == [120, 120] and 119 in passes
    assert passes.count(64) == 2
    # Prompts of 60 and 10 tokens: three at a time are answered, then others join.
    assert 60 in passes and 1 + 60 + 10 in passes and 3 in passes


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("both_distributions", ["losses of in_domain", "120 tokens", "data.max_length below 120"]),
        ("longest_passes", ["3 answers", "evaluate.max_batch: 1", "max_new_tokens below 9"]),
    ],
)
def test_what_does_not_fit_is_told_before_training(
    monkeypatch: pytest.MonkeyPatch, what: str, names: list[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(first, what, refuse)
    with pytest.raises(RunError, match="no step was done") as caught:
        run(model_of())
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize("model_type", ["bloom", "mamba", "minimax"])
def test_families_that_are_not_packed_are_run_too(model_type: str) -> None:
    run_evaluation_first(
        model_of(model_type),
        {"in_domain": rows([16] * 4 + [12] * 2)},
        rows([12] * 5),
        WANTED,
        seed=0,
        token_budget=64,
        packed=False,
    )
