"""Laws 3 and 4: how examples are laid out changes neither the loss nor the gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from lorakit.adapters import kinds
from lorakit.adapters.attach import attach_adapter, attached
from lorakit.base import storages
from lorakit.base.load import load_base
from lorakit.data.examples import ExampleSet
from lorakit.engine.recompute import RecomputePolicy
from lorakit.errors import DataError
from lorakit.optimizers.optimizer import AdamW
from lorakit.recipe import LoraConfig
from lorakit.train.batches import StepBatches
from lorakit.train.modes import training_mode
from lorakit.train.step import backward, take_step
from tests import tolerances
from tests.train import runs

NUM_EXAMPLES = 11
BATCH_SIZE = 8  # the second step of the epoch has three examples


def _loss_and_gradients(
    model: PreTrainedModel,
    examples: ExampleSet,
    *,
    token_budget: int,
    packed: bool,
    step: int = 0,
    level: str = "none",
) -> tuple[float, dict[str, torch.Tensor]]:
    batches = StepBatches(
        examples, batch_size=BATCH_SIZE, seed=7, token_budget=token_budget, packed=packed
    )
    adapter = attached(model)
    model.zero_grad()
    with training_mode(model, adapter, RecomputePolicy(level)):
        batch = batches[step]
        loss = backward(model, adapter, batch, seed=7) / batch.total_weight
    gradients = {n: p.grad / batch.total_weight for n, p in adapter.parameters().items()}
    return loss.item(), gradients


def _assert_equal(actual: tuple, expected: tuple) -> None:
    assert actual[0] == pytest.approx(expected[0], rel=tolerances.LOSS_FLOAT32)
    for name, gradient in expected[1].items():
        assert gradient.norm() > 0, name
        error = tolerances.relative_error(actual[1][name], gradient)
        assert error < tolerances.GRADIENT_FLOAT32, name


@pytest.mark.parametrize("quantization", [*storages.quantizations()])
@pytest.mark.parametrize("kind", kinds.names())
@pytest.mark.parametrize("step", [0, 1])
def test_packed_equals_padded_equals_one_at_a_time(
    tiny_folder: Path, kind: str, quantization: str, step: int
) -> None:
    model = runs.adapted_model(
        tiny_folder, kind=kind, quantization=quantization, lora_dropout=0.1 * step
    )
    examples = runs.ragged_examples(NUM_EXAMPLES, weighted=True)
    alone = _loss_and_gradients(model, examples, token_budget=1, packed=False, step=step)
    for token_budget in (1, 40, 60, 1000):
        for packed in (True, False):
            other = _loss_and_gradients(
                model, examples, token_budget=token_budget, packed=packed, step=step
            )
            _assert_equal(other, alone)


@pytest.mark.parametrize("kind", kinds.names())
def test_recomputed_layers_give_the_same_bits(tiny_folder: Path, kind: str) -> None:
    model = runs.adapted_model(tiny_folder, kind=kind, lora_dropout=0.1)
    examples = runs.ragged_examples(NUM_EXAMPLES)
    kept, *recomputed = (
        _loss_and_gradients(model, examples, token_budget=60, packed=True, level=level)
        for level in ("none", "selective", "full")
    )
    for loss, gradients in recomputed:
        assert kept[0] == loss
        for name, gradient in kept[1].items():
            assert torch.equal(gradient, gradients[name]), name
    assert not model.training and not model.is_activation_checkpointing


def test_the_loss_is_the_weighted_mean_over_all_tokens_of_the_step(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    examples = runs.ragged_examples(NUM_EXAMPLES, weighted=True)
    batches = StepBatches(examples, batch_size=BATCH_SIZE, seed=7, token_budget=50, packed=True)
    expected, weight = 0.0, 0.0
    for index in batches.examples_of(0):
        example = examples[int(index)]
        ids = torch.from_numpy(example.input_ids).long()[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].double()
        nll = F.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        expected += (nll * torch.from_numpy(example.loss_weights[1:])).sum().item()
        weight += float(example.loss_weights.sum(dtype=np.float64))
    loss, _ = _loss_and_gradients(model, examples, token_budget=50, packed=True)
    assert loss == pytest.approx(expected / weight, rel=tolerances.LOSS_FLOAT32)


@pytest.mark.parametrize("world_size", [2, 3, 20])
def test_ranks_share_a_step_and_its_token_count(tiny_folder: Path, world_size: int) -> None:
    model = runs.adapted_model(tiny_folder, lora_dropout=0.1)
    examples = runs.ragged_examples(NUM_EXAMPLES, weighted=True)
    whole = _loss_and_gradients(model, examples, token_budget=50, packed=True)
    adapter = attached(model)
    losses = []
    model.zero_grad()
    with training_mode(model, adapter):
        for rank in range(world_size):
            batches = StepBatches(
                examples,
                batch_size=BATCH_SIZE,
                seed=7,
                token_budget=50,
                packed=True,
                rank=rank,
                world_size=world_size,
            )
            weight = batches[0].total_weight
            losses.append(backward(model, adapter, batches[0], seed=7).item() / weight)
    gradients = {n: p.grad / weight for n, p in adapter.parameters().items()}
    _assert_equal((sum(losses), gradients), whole)


def test_every_epoch_sees_every_example_once_whatever_the_ranks() -> None:
    examples = runs.ragged_examples(NUM_EXAMPLES)
    batches = StepBatches(examples, batch_size=4, seed=1, token_budget=50, packed=True)
    assert batches.steps_per_epoch == 3 and batches.count_steps(2.5, None) == 8
    assert batches.count_steps(2.5, 5) == 5
    orders = []
    for epoch in range(3):
        steps = range(3 * epoch, 3 * epoch + 3)
        seen = [
            int(i) for step in steps for b in batches[step].micro_batches for i in b.example_ids
        ]
        assert sorted(seen) == list(range(NUM_EXAMPLES))
        orders.append([i for step in steps for i in batches.examples_of(step).tolist()])
    assert orders[0] != orders[1] != orders[2]
    # Random access: any step, in any order.
    assert [i for step in range(3) for i in batches.examples_of(step).tolist()] == orders[0]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.9, 2.2])
def test_fractional_weights_leave_every_step_with_examples(share: float) -> None:
    examples = runs.ragged_examples(NUM_EXAMPLES)
    repeats = np.where(np.arange(NUM_EXAMPLES) % 3 == 0, share, 1.0)
    batches = StepBatches(examples, repeats, batch_size=3, seed=1, token_budget=50, packed=True)
    seen = np.zeros(NUM_EXAMPLES)
    for step in range(40 * batches.steps_per_epoch):
        chosen = batches.examples_of(step)
        assert 0 < len(chosen) <= 3 and batches[step].num_tokens > 0
        np.add.at(seen, chosen, 1)
    assert seen.all()


def test_examples_that_train_nothing_are_refused() -> None:
    whole = runs.ragged_examples(3)
    whole.trained_lengths[1] = 0
    with pytest.raises(DataError, match=r"1 examples have no trained token \(the first: 1\)"):
        StepBatches(whole, batch_size=2, seed=0, token_budget=9, packed=True)
    with pytest.raises(DataError, match="no example"):
        StepBatches(runs.ragged_examples(0), batch_size=2, seed=0, token_budget=9, packed=True)


def test_a_bfloat16_gradient_is_not_scaled_by_a_rounded_count(tiny_folder: Path) -> None:
    # The mean's gradient is the sum's, divided: a power of two apart, the bits are the same.
    model, _ = load_base(tiny_folder, device="cpu", dtype=torch.bfloat16)
    attach_adapter(model, LoraConfig(r=4))
    adapter = attached(model)
    examples = runs.ragged_examples(NUM_EXAMPLES)
    batches = StepBatches(examples, batch_size=BATCH_SIZE, seed=7, token_budget=1000, packed=True)
    gradients = []
    for total_weight in (1.0, 1531.0, 2.0**40):
        optimizer = AdamW(adapter.parameters())
        batch = replace(batches[0], total_weight=total_weight)
        take_step(model, adapter, optimizer, batch, learning_rate=0.0, max_grad_norm=None, seed=7)
        flat = torch.cat([p.grad.flatten() for p in adapter.parameters().values()]).double()
        gradients.append(flat * total_weight)
        optimizer.release()
    assert gradients[0].norm() > 0
    for other in gradients[1:]:
        assert tolerances.relative_error(other, gradients[0]) < tolerances.LOSS_FLOAT32
