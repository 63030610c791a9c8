"""Over-fitting by hand, its direction, and which validation was best."""

from __future__ import annotations

import numpy as np
import pytest

from lorakit.data.prepare import prepare_examples
from lorakit.data.reading import DataRules
from lorakit.data.sources import Row
from lorakit.evaluate.overfitting import measure_overfitting, validation_losses
from lorakit.evaluate.seen_rows import divergence, seen_rows
from lorakit.train.losses import ExampleLosses
from tests import tiny


def rows(base: float, tuned: float, seed: int, count: int = 80) -> tuple[ExampleLosses, ...]:
    generator = np.random.default_rng(seed)
    weight = generator.integers(5, 50, count).astype(float)
    hardness = generator.normal(0, 0.3, count)
    noise = generator.normal(0, 0.1, count)
    return (
        ExampleLosses((base + hardness) * weight, weight),
        ExampleLosses((tuned + hardness + noise) * weight, weight),
    )


@pytest.mark.parametrize(
    ("seen", "unseen", "excess"),
    [
        ((2.5, 1.0), (2.7, 1.6), 0.4),  # gained 1.5 on rows it saw, 1.1 on others
        ((2.5, 1.0), (3.5, 2.0), 0.0),  # harder rows, the same gain
        ((2.5, 0.2), (2.5, 2.8), 2.6),  # learned by heart
    ],
)
def test_the_excess_is_what_does_not_carry_over(
    seen: tuple[float, float], unseen: tuple[float, float], excess: float
) -> None:
    trained, others = rows(*seen, seed=0), rows(*unseen, seed=1, count=60)
    found = measure_overfitting(trained, others, None, source="a.jsonl", seed=0)  # type: ignore[arg-type]
    assert found is not None
    by_hand = (others[1].mean - others[0].mean) - (trained[1].mean - trained[0].mean)
    assert found.excess == pytest.approx(by_hand) == pytest.approx(excess, abs=0.06)
    low, high = found.interval
    assert low < found.excess < high and high - low < 0.2
    assert (low > 0) == (excess > 0) and (found.p_value < 0.05) == (excess > 0)
    told = found.to_json()
    assert told["seen"] == {
        "base": trained[0].mean,
        "tuned": trained[1].mean,
        "examples": 80,
        "source": "a.jsonl",
    }


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    inside = 0
    for trial in range(60):
        trained = rows(2.5, 1.0, seed=2 * trial, count=40)
        others = rows(2.7, 1.6, seed=2 * trial + 1, count=40)
        found = measure_overfitting(trained, others, None, source="a", seed=trial)  # type: ignore[arg-type]
        assert found is not None
        inside += found.interval[0] <= 0.4 <= found.interval[1]
    assert inside >= 52  # 95 %, within what 60 trials show


def test_rows_that_were_trained_on_are_those_like_the_unseen() -> None:
    """Of a mixture the task's own rows; of rare sources none; of one source any."""
    notes = [
        {"prompt": f"Case {n}?", "completion": f"Blood pressure {n} mmHg, pulse {n}."}
        for n in range(60)
    ]
    talk = [
        {"prompt": f"Hello {n}?", "completion": "Call us if you have a fever."} for n in range(60)
    ]
    train = prepare_examples([talk, notes[:40]], tiny.tokenizer(), DataRules())
    rows = [Row({}, f"{'talk' if n < 60 else 'notes'}.jsonl:{n}") for n in range(100)]
    unseen = prepare_examples([notes[40:]], tiny.tokenizer(), DataRules()).examples
    chosen, source = seen_rows(train.examples, rows, unseen, 25, seed=0)
    assert source == "notes.jsonl" and len(set(chosen.tolist())) == 25
    assert chosen.tolist() == sorted(chosen.tolist()) and min(chosen) >= 60
    other, _ = seen_rows(train.examples, rows, unseen, 25, seed=1)
    assert chosen.tolist() != other.tolist()
    rare = [Row({}, f"{'notes' if n < 90 else 'few'}.jsonl:{n}") for n in range(100)]
    chosen, source = seen_rows(train.examples, rare, unseen, 1000, seed=0)
    assert source == "notes.jsonl" and len(chosen) == 90


def test_the_divergence_of_tokens() -> None:
    one, other = np.array([3, 1]), np.array([0, 0, 5])
    assert divergence(one, one * 2) == 0
    assert divergence(one, other) == pytest.approx(np.log(2))
    half = divergence(np.array([1, 0]), np.array([1, 1]))
    middle = np.array([0.75, 0.25])
    by_hand = (np.log(1 / 0.75) + 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)) / 2
    assert middle.sum() == 1 and half == pytest.approx(by_hand)


def test_no_number_no_claim() -> None:
    trained, others = rows(2.5, 1.0, seed=0), rows(2.5, float("nan"), seed=1)
    assert measure_overfitting(trained, others, None, source="a", seed=0) is None  # type: ignore[arg-type]


def test_best_and_last_validation() -> None:
    logged = [
        {"step": 5, "loss": 1.0},
        {"step": 10, "loss": 1.0, "validation_loss": 2.0},
        {"step": 20, "loss": 0.5, "validation_loss": 1.5},
        {"step": 30, "loss": 0.1, "validation_loss": 1.8},
    ]
    last = validation_losses(logged, keeps_best=False)
    assert last is not None and vars(last) == {
        "best_step": 20,
        "best": 1.5,
        "last_step": 30,
        "last": 1.8,
        "kept_step": 30,
    }
    best = validation_losses(logged, keeps_best=True)
    assert best is not None and best.kept_step == 20
    assert validation_losses(logged[:1], keeps_best=False) is None
