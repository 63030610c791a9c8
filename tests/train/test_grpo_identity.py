"""What a resumed policy gradient must share with the run it goes on from, and what it need not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lorakit.data.sources import Row
from lorakit.errors import CheckpointError
from lorakit.tasks import ScoringOptions
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.outcome import TrainOutcome
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.rewards import Reward
from tests.train.grpo_runs import LOOP, TOKENIZER, adapted, questions

FUNCTION = "def near(completions, answer):\n    return [float(len(a)) for a in answer]\n"


def test_where_a_function_lies_is_no_part_of_a_run() -> None:
    """Another spelling of its path is the same run; another function, name or weight is not."""

    def identity(scorer: str, weight: float = 1.0, name: str = "own") -> dict:
        return GRPOSettings(rewards=(Reward(scorer, weight, name=name),)).identity()

    known = identity("own.py:math")
    for spelling in ("/a/own.py:math", "b/../own.py:math", "package.own:math"):
        assert identity(spelling) == known
    # `math` alone is the scorer of that name.
    others = [identity("math"), identity("own.py:maths")]
    others += [identity("own.py:math", 2.0), identity("own.py:math", name="mine")]
    assert known not in others


def short_run(
    scorer: str, folder: Path, answers: list[str], *, resume: bool = False
) -> TrainOutcome:
    """Of a step or two, with rows that have more columns than examples are made of."""
    grpo = GRPOSettings(
        rewards=(Reward(scorer, name="own"),),
        scoring=ScoringOptions(regex="[a-m]"),
        num_generations=2,
        loss=PolicyLossSettings(max_completion_length=2),
    )
    rows = [Row({"answer": answer}, f"memory:{i}") for i, answer in enumerate(answers)]
    loop = dataclasses.replace(LOOP, max_steps=2, save_steps=1)
    return train_grpo(
        adapted(), TOKENIZER, questions(), loop, grpo, rows=rows, run_dir=folder, resume=resume
    )


ANSWERS = ["1", "2", "3", "4", "5"]


def test_a_moved_function_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / "one" / "own.py", tmp_path / "two" / "moved.py"]
    for place in places:
        place.parent.mkdir()
        place.write_text(FUNCTION)
    short_run(f"{places[0]}:near", tmp_path / "run", ANSWERS)
    monkeypatch.chdir(places[1].parent)
    outcome = short_run("moved.py:near", tmp_path / "run", ANSWERS, resume=True)
    assert outcome.steps == 2


def test_other_columns_are_another_run_where_a_function_reads_them(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(FUNCTION)
    changed = [*ANSWERS[:-1], "6"]
    short_run(f"{own}:near", tmp_path / "own", ANSWERS)
    with pytest.raises(CheckpointError, match=r"belongs to another run.*method\.rows"):
        short_run(f"{own}:near", tmp_path / "own", changed, resume=True)
    # A scorer sees none of them.
    short_run("regex", tmp_path / "regex", ANSWERS)
    short_run("regex", tmp_path / "regex", changed, resume=True)
