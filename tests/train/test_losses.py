"""Per-example losses against the model's own forward, packed and padded, on every shape of set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import lorakit
from lorakit.data.examples import Example, examples_in_memory
from lorakit.train.losses import StoppedError, example_losses
from tests.tolerances import LOGITS_FLOAT32


def _examples(lengths: list[int]) -> list[Example]:
    generator = np.random.default_rng(0)
    examples = []
    for length in lengths:
        weights = generator.choice([0.0, 1.0, 0.5], size=length).astype(np.float32)
        weights[0], weights[-1] = 0.0, 1.0
        ids = generator.integers(5, 380, length).astype(np.int32)
        examples.append(Example(ids, weights))
    return examples


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("token_budget", [1, 40, 10_000])
def test_losses_equal_the_models_own_logits(tiny_folder, packed: bool, token_budget: int) -> None:
    model, _ = lorakit.load_base(tiny_folder)
    examples = _examples([2, 33, 7, 64, 15])
    losses = example_losses(
        model, examples_in_memory(examples, "x"), token_budget=token_budget, packed=packed
    )
    for i, example in enumerate(examples):
        ids = torch.from_numpy(example.input_ids.astype(np.int64))
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1].double()
        nll = functional.cross_entropy(logits, ids[1:], reduction="none")
        expected = (nll * torch.from_numpy(example.loss_weights[1:]).double()).sum().item()
        assert losses.nll[i] == pytest.approx(expected, rel=LOGITS_FLOAT32)
        assert losses.weight[i] == pytest.approx(example.loss_weights.sum())


def test_modes_come_back_and_the_first_examples_are_taken(tiny_folder) -> None:
    model, _ = lorakit.load_base(tiny_folder)
    model.train()
    model.model.layers[0].eval()
    examples = examples_in_memory(_examples([9, 5, 12]), "x")
    losses = example_losses(model, examples, token_budget=64, packed=True, max_examples=2)
    assert len(losses.nll) == len(losses.weight) == 2
    assert model.training and not model.model.layers[0].training
    everything = example_losses(model, examples, token_budget=64, packed=True)
    np.testing.assert_allclose(losses.nll, everything.nll[:2], rtol=LOGITS_FLOAT32)


def test_whoever_says_stop_waits_for_one_forward_pass_at_most(tiny_folder) -> None:
    model, _ = lorakit.load_base(tiny_folder)
    model.train()
    examples = examples_in_memory(_examples([9, 5, 12]), "x")
    asked = iter([False, True])
    with pytest.raises(StoppedError, match="evaluating was stopped"):
        example_losses(
            model, examples, token_budget=1, packed=True, should_stop=lambda: next(asked)
        )
    assert next(asked, None) is None and model.training
