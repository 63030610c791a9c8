"""The largest micro-batches that are found at once are those that a look at each one finds."""

from __future__ import annotations

import numpy as np
import pytest

from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.engine.activations import LayerBytes
from lorakit.engine.recompute import RecomputePolicy
from lorakit.train import worst
from lorakit.train.batches import StepBatches
from lorakit.train.worst import largest_of_steps, worst_of_steps


def examples(count: int, seed: int = 0) -> ExampleSet:
    generator = np.random.default_rng(seed)
    made = []
    for length in generator.integers(4, 60, count):
        weights = np.zeros(length, dtype=np.float32)
        weights[int(generator.integers(1, length)) :] = 1
        made.append(Example(generator.integers(5, 400, length).astype(np.int32), weights))
    return examples_in_memory(made)


def batches_of(rows: ExampleSet, **changes: object) -> StepBatches:
    options = {"batch_size": 5, "seed": 3, "token_budget": 90, "packed": True} | changes
    return StepBatches(rows, np.full(len(rows), 1.5), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 7])
@pytest.mark.parametrize("token_budget", [40, 90, 1000])
def test_they_are_those_of_every_step(packed: bool, world_size: int, token_budget: int) -> None:
    rows = examples(83)
    steps = range(2, 61)  # from within one epoch into another
    expected: dict[int, tuple[int, int]] = {}
    for rank in range(world_size):
        batches = batches_of(
            rows, packed=packed, rank=rank, world_size=world_size, token_budget=token_budget
        )
        for step in steps:
            for group in batches.groups_of(step):
                lengths = rows.lengths[group]
                tokens = int(lengths.sum() if packed else len(group) * lengths.max())
                size = int(rows.trained_lengths[group].sum()), int(np.square(lengths).sum())
                expected[tokens] = max(expected.get(tokens, (0, 0)), size)
    batches = batches_of(rows, packed=packed, world_size=world_size, token_budget=token_budget)
    found = largest_of_steps(batches, steps, ranks=range(world_size))
    assert {tokens: size for tokens, (size, _) in found.by_tokens.items()} == expected
    for tokens, (size, group) in found.by_tokens.items():
        lengths = rows.lengths[list(group)]
        assert tokens == (lengths.sum() if packed else len(group) * lengths.max())
        assert size[0] == rows.trained_lengths[list(group)].sum()


def test_less_may_be_kept_of_more_tokens() -> None:
    """By a budget that the largest exceeds, so that its layers are recomputed."""
    rows = examples(40)
    batches = batches_of(rows)
    layers = [LayerBytes(none=100, selective=100, full=1)] * 4
    found = worst_of_steps(
        batches, range(24), policy=RecomputePolicy("auto", 85 * 400), layers=layers
    )
    tokens = [int(rows.lengths[list(group)].sum()) for group in found.groups]
    assert len(tokens) == 2
    assert tokens[0] > 85 >= tokens[1]
    (only,) = worst_of_steps(
        batches, range(24), policy=RecomputePolicy("none"), layers=layers
    ).groups
    assert int(rows.lengths[list(only)].sum()) == tokens[0]


def test_of_very_many_steps_the_first_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst, "MAX_STEPS", 3)
    batches = batches_of(examples(40))
    assert largest_of_steps(batches, range(3), ranks=[0]).exact
    assert not largest_of_steps(batches, range(4), ranks=[0]).exact
