"""The beginning of a cycle: what is kept when something stops it, and further questions."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from lorakit.errors import InterruptionError
from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.completions import NAME as COMPLETIONS
from lorakit.train.completions import NOT_SCORED
from lorakit.train.generation import Generation
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.metrics import read_metrics
from lorakit.train.question_stream import QuestionStream
from lorakit.train.rewards import Reward, Rewarder
from lorakit.train.rollouts import Rollouts
from tests.train.grpo_runs import (
    CYCLES,
    STEPS_PER_CYCLE,
    TOKENIZER,
    adapted,
    assert_same_run,
    later_than,
    logged,
    newest,
    questions,
    run,
)

# Groups of two and a reward that is 0 or 1: some vary, others do not.
RESAMPLED = dataclasses.replace(CYCLES, rewards=(Reward("regex"),), max_resample_times=2)


class Scoring:
    """The rewards of a run, counted; the one at `place` in the whole run does `what`: first, or
    once it is there."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, place: int | None, what, *, afterwards: bool = False
    ) -> None:
        self.asked: list[str] = []
        plain = Rewarder.score

        def score(rewarder: Rewarder, reward: Reward, *arguments) -> np.ndarray:
            self.asked.append(reward.scorer)
            is_here = len(self.asked) - 1 == place
            if is_here and not afterwards:
                what()
            found = plain(rewarder, reward, *arguments)
            if is_here and afterwards:
                what()
            return found

        monkeypatch.setattr(Rewarder, "score", score)


def fail() -> None:
    raise OSError("too many open files")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("grpo", "what", "raised", "save_steps"),
    [
        pytest.param(grpo, what, raised, save_steps, marks=marks)
        for grpo, what, raised, save_steps, marks in (
            (CYCLES, fail, OSError, 1, ()),
            (CYCLES, fail, OSError, 99, pytest.mark.slow),
            (CYCLES, stop, InterruptionError, 99, pytest.mark.slow),
            (RESAMPLED, fail, OSError, 99, pytest.mark.slow),
            (RESAMPLED, fail, OSError, 1, pytest.mark.slow),
            (RESAMPLED, stop, InterruptionError, 1, pytest.mark.slow),
        )
    ],
)
def test_what_stops_the_rewards_loses_no_completion(
    grpo: GRPOSettings, what, raised, save_steps: int, tmp_path, monkeypatch
) -> None:
    """Whatever was there is in the checkpoint, and the run goes on to the same end."""
    options = {"max_steps": STEPS_PER_CYCLE + 1, "save_steps": save_steps, "logging_steps": 1}
    counted = Scoring(monkeypatch, None, None)
    whole = run(adapted(), grpo, run_dir=tmp_path / "whole", **options)
    place = len(counted.asked) - 1  # the last reward of the second cycle
    monkeypatch.undo()

    Scoring(monkeypatch, place, what, afterwards=raised is InterruptionError)
    with pytest.raises(raised):
        run(adapted(), grpo, run_dir=tmp_path / "run", **options)
    monkeypatch.undo()
    saved = newest(tmp_path / "run")
    kept, state = saved.tensors["rollouts"], saved.state["method"]["rollouts"]
    assert saved.step == STEPS_PER_CYCLE and len(kept["lengths"]) >= 8
    if raised is OSError:
        assert not kept["scored"].all() and len(state["texts"]) == len(kept["lengths"])
        # And somebody can read them; the run that goes on takes them out.
        last = [one for one in told(tmp_path / "run") if one["step"] > saved.step]
        assert [one["label"] for one in last] == [NOT_SCORED] * len(kept["lengths"])
        assert all(one["completion"] and one["prompt"] for one in last)
    generated = Generation.advance
    monkeypatch.setattr(Generation, "advance", None)  # nothing is generated again
    again = Scoring(monkeypatch, None, None)
    outcome = run(adapted(), grpo, run_dir=tmp_path / "run", resume=True, **options)
    monkeypatch.setattr(Generation, "advance", generated)
    assert len(again.asked) == (raised is OSError)  # nor is what was scored asked for again
    assert logged(outcome.metrics) == logged(whole.metrics)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert told(tmp_path / "run") == told(tmp_path / "whole")


def told(folder: Path) -> list[dict]:
    return read_metrics(folder / COMPLETIONS)


def test_a_signal_between_two_rewards_is_seen(tmp_path: Path, monkeypatch) -> None:
    counted = Scoring(monkeypatch, 0, stop, afterwards=True)
    with pytest.raises(InterruptionError, match="after step 0 of 12; saved"):
        run(adapted(), run_dir=tmp_path / "run")
    assert counted.asked == ["regex"]
    assert newest(tmp_path / "run").tensors["rollouts"]["scored"].tolist() == [[True, False]] * 8


def test_a_signal_in_the_midst_of_a_reward_is_seen_too(tmp_path: Path, monkeypatch) -> None:
    """Of one that may take seconds for an answer: it is asked for again."""
    Scoring(monkeypatch, 0, stop)
    with pytest.raises(InterruptionError, match=r"saved .*, with the completions that"):
        run(adapted(), run_dir=tmp_path / "run")
    assert not newest(tmp_path / "run").tensors["rollouts"]["scored"].any()


@pytest.fixture(scope="module")
def resampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("resampled") / "run"
    return folder, logged(run(adapted(), RESAMPLED, run_dir=folder, logging_steps=1).metrics)


def test_groups_without_variance_are_drawn_again(resampled: tuple[Path, list[dict]]) -> None:
    """Steps see as many groups that vary as asked for, or the resamples are used up."""
    folder, lines = resampled
    stream = QuestionStream(questions(), None, (), seed=5, prompts_per_cycle=4)
    num_resamples = []
    for cycle in range(3):
        saved = read_checkpoint(folder / f"checkpoints/step-{cycle * STEPS_PER_CYCLE + 1}")
        rollouts = Rollouts.restored(
            saved.tensors["rollouts"],
            saved.state["method"]["rollouts"],
            stream.at,
            RESAMPLED,
            num_groups=4,
        )
        found = rollouts.advantages
        assert [q.index for q in rollouts.questions[:4]] == [
            q.index for q in stream.questions(cycle)
        ]
        varies = found.varies[rollouts.chosen]
        assert len(varies) == 8
        assert varies.all() or rollouts.num_resamples == RESAMPLED.max_resample_times
        assert not (found.varies.sum() > 8 and not varies.all())
        # What is told is of all that was rolled out.
        line = lines[cycle * STEPS_PER_CYCLE]
        assert line["frac_reward_zero_std"] == pytest.approx(1 - found.varies.mean())
        assert line["reward"] == pytest.approx(found.rewards.mean())
        assert line["num_resamples"] == rollouts.num_resamples
        num_resamples.append(rollouts.num_resamples)
        assert (len(rollouts) == 8) == (rollouts.num_resamples == 0)
    assert max(num_resamples) > 0, "no cycle of this test lacks a group"


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_resampled_run_is_resumed_bit_for_bit(
    step: int, resampled: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    folder, lines = resampled
    shutil.copytree(folder, tmp_path / "run", ignore=later_than(step))
    outcome = run(adapted(), RESAMPLED, run_dir=tmp_path / "run", resume=True, logging_steps=1)
    assert logged(outcome.metrics) == lines
    assert_same_run(tmp_path / "run", folder)


def test_a_signal_before_further_questions_loses_nothing(
    resampled: tuple[Path, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was asked is scored, so its texts are gone; those of a resample come behind them."""
    folder, lines = resampled
    counts = [lines[cycle * STEPS_PER_CYCLE]["num_resamples"] for cycle in range(3)]
    cycle = next(place for place, count in enumerate(counts) if count > 0)
    place = sum(1 + int(count) for count in counts[:cycle])
    Scoring(monkeypatch, place, stop, afterwards=True)
    with pytest.raises(InterruptionError):
        run(adapted(), RESAMPLED, run_dir=tmp_path / "run", logging_steps=1)
    monkeypatch.undo()
    saved = newest(tmp_path / "run")
    state = saved.state["method"]["rollouts"]
    assert saved.tensors["rollouts"]["scored"].all()
    assert (state["num_resamples"], state["texts"]) == (0, [])
    outcome = run(adapted(), RESAMPLED, run_dir=tmp_path / "run", resume=True, logging_steps=1)
    assert logged(outcome.metrics) == lines
    assert_same_run(tmp_path / "run", folder)


def test_further_questions_are_others_while_there_are_any() -> None:
    stream = QuestionStream(questions(5), None, (), seed=5, prompts_per_cycle=2)
    for cycle in range(6):
        own = [q.index for q in stream.questions(cycle)]
        further = [q.index for q in stream.further(cycle, 2, 8)]
        assert sorted({*own, *further[:3]}) == list(range(5))
        assert further[5:] == further[:3]  # from the start again
        assert [q.index for q in stream.further(cycle, 4, 1)] == further[2:3]
    drawn = {str([q.index for q in stream.further(cycle, 2, 3)]) for cycle in range(6)}
    assert len(drawn) > 1  # in an order of the cycle


def test_a_question_that_is_asked_again_is_answered_anew() -> None:
    grpo = dataclasses.replace(RESAMPLED, scoring=dataclasses.replace(CYCLES.scoring, regex=""))
    stream = QuestionStream(questions(1), None, (), seed=5, prompts_per_cycle=1)
    with grpo.rewarder() as rewarder:
        generation = Generation(TOKENIZER, grpo, rewarder, None, stream, 5, (), lambda: None)
        found = None
        for _ in range(1 + grpo.max_resample_times):
            assert found is None or not generation.is_whole(found)
            found = generation.advance(adapted(), 0, found)
            generation.reward(found)
    assert found is not None and generation.is_whole(found)
    assert found.num_resamples == 2 and [q.index for q in found.questions] == [0, 0, 0]
    said = [tuple(found.token_ids[found.span(i)].tolist()) for i in range(len(found))]
    assert len({tuple(said[i : i + 2]) for i in (0, 2, 4)}) == 3
    assert found.chosen.tolist() == [0, 1]
