"""Learning rates equal transformers' schedulers at every step."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from transformers import get_scheduler

from lorakit.errors import InputError
from lorakit.recipe.sections.stage import StageSection
from lorakit.train.schedule import Kind, Schedule, count_warmup_steps
from lorakit.train.settings import LoopSettings

NAMES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    ("num_steps", "num_warmup_steps"), [(1, 0), (20, 1), (37, 5), (8, 8), (5, 9)]
)
def test_equals_transformers(kind: str, num_steps: int, num_warmup_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    peer = get_scheduler(
        NAMES[kind], optimizer, num_warmup_steps=num_warmup_steps, num_training_steps=num_steps
    )
    ours = Schedule(kind, 3e-4, num_steps, num_warmup_steps)
    for step in range(num_steps):
        assert ours.learning_rate(step) == pytest.approx(peer.get_last_lr()[0], rel=1e-12, abs=0)
        optimizer.step()
        peer.step()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 5), ({"warmup_ratio": 0.1}, 10), ({"warmup_steps": 7}, 7), ({"warmup_ratio": 0.0}, 0)],
)
@pytest.mark.parametrize("kind", NAMES)
def test_warmup_steps(kind: Kind, given: dict[str, float], expected: int) -> None:
    # What does not change begins as it goes on, unless something else is asked for.
    if kind == "constant" and not given:
        expected = 0
    assert count_warmup_steps(kind, 99, **given) == expected


def test_a_kind_that_there_is_not_is_refused_where_it_is_given() -> None:
    assert get_args(StageSection.model_fields["lr_scheduler_type"].annotation) == get_args(Kind)
    assert set(NAMES) == set(get_args(Kind))
    for kind, near in (("cosin", "cosine"), ("Linear", "linear"), ("constant_", "constant")):
        said = rf"'{kind}' is not known; did you mean {near}\? Possible: cosine, linear, constant"
        with pytest.raises(InputError, match=said):
            LoopSettings(lr_scheduler_type=kind)
        with pytest.raises(InputError, match=said):
            Schedule(kind, 1.0, 10, 0)
    with pytest.raises(InputError, match=r"'step' is not known\. Possible: cosine, linear"):
        LoopSettings(lr_scheduler_type="step")
