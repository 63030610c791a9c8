"""Reward functions of one's own: whatever one does, the run says which row and which function."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorakit.data.sources import Row
from lorakit.errors import InputError, RunError
from lorakit.tasks import ScoringOptions
from lorakit.train import reward_child
from lorakit.train.reward_functions import Answers, RewardFunction
from lorakit.train.reward_source import Signature, signature_in
from lorakit.train.rewards import Reward, Rewarder
from lorakit.train.row_columns import Columns, columns_of
from tests.train import own_rewards

OWN = Path(__file__).with_name("own_rewards.py")
SECONDS = 1.0
TEXTS = ("a", "bb", "bad", "c", "b")
# {function: what it is told of, what is said}
FAILING = {
    "raises": "raised ValueError: cannot read 'bad'",
    "hangs": "did not answer within 1 s",
    "dies": "ended with exit code 7",
    "exits": "raised SystemExit",
    "prints_without_end": "did not answer within 1 s",
    "gives_nan": "gave nan",
    "gives_infinity": "gave inf",
    "gives_text": "gave str, no number",
    "gives_too_few": "gave 0 values for 1 completions",
    "gives_a_number": "gave float, no list",
    "gives_nothing": "gave NoneType, no list",
}


def answers(*texts: str) -> Answers:
    count = len(texts)
    return Answers(
        texts,
        ["right" if text == "a" else "wrong" for text in texts],
        [f"asked {i}" for i in range(count)],
        [[7] * (i + 1) for i in range(count)],
        [{"level": i, "text": text} for i, text in enumerate(texts)],
        [f"rows.jsonl:{i + 1}" for i in range(count)],
    )


def function(name: str, on_failure: str = "error", **options: object) -> RewardFunction:
    return RewardFunction(
        f"{OWN}:{name}",
        options,
        on_failure=on_failure,  # type: ignore[arg-type]
        seconds=SECONDS if "did not answer" in FAILING.get(name, "") else 60.0,
    )


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("length", {}, [1, 2, 3, 1, 1]),
        ("tokens", {}, [7, 14, 21, 28, 35]),
        ("columns", {}, [108, 18, 28, 38, 48]),
        ("columns", {"missing": 5}, [107, 17, 27, 37, 47]),
        ("optioned", {"factor": 0.5}, [0.5, 1, 1.5, 0.5, 0.5]),
        ("numpy_numbers", {}, [1, 2, 3, 1, 1]),
        ("opinions", {}, [1, 1, 1, 1, np.nan]),
        ("waits", {"scale": 2.0}, [2, 5, 8, 5, 6]),
    ],
)
def test_it_is_called_with_what_it_takes(name: str, options: dict, wanted: list[float]) -> None:
    one = function(name, **options)
    one.check(Columns(["level", "text"]))
    found = one.scores(answers(*TEXTS))
    one.close()
    assert found.dtype == np.float64 and found.shape == (5,)
    np.testing.assert_equal(found, wanted)


# The others are slow together: every one is a process, and what hangs has its second.
def failures(*quick: str) -> list[Any]:
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in FAILING]


@pytest.mark.parametrize("name", failures("raises", "hangs", "gives_nan"))
def test_a_failure_names_the_row_and_the_function(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = function(name)
    with pytest.raises(RunError) as caught:
        one.scores(answers(*TEXTS))
    message = str(caught.value)
    for part in (f"own_rewards.py:{name}'", FAILING[name], "row rows.jsonl:3", "'bad'", "to skip"):
        assert part in message, message
    if name == "raises":
        assert "line" in caplog.text and "raise ValueError" in caplog.text
    one.close()


@pytest.mark.parametrize("name", failures("raises", "gives_too_few"))
def test_a_failure_is_skipped_where_the_recipe_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = function(name, "skip")
    with caplog.at_level(logging.WARNING):
        found = one.scores(answers(*TEXTS))
    np.testing.assert_equal(found, [1, 1, np.nan, 1, 1])
    assert f"own_rewards.py:{name}' failed for 1 of 5 completions" in caplog.text
    assert "first for rows.jsonl:3" in caplog.text and FAILING[name] in caplog.text
    one.close()


def test_one_that_hangs_for_all_is_not_asked_for_each(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 completions would take 127 calls, each to its end: hours with the default of a minute."""
    monkeypatch.setattr("lorakit.train.reward_functions.MAX_STOPPED", 3)
    one = RewardFunction(f"{OWN}:hangs", {}, on_failure="skip", seconds=0.5)
    began = time.monotonic()
    assert np.isnan(one.scores(answers(*["bad"] * 64))).all()
    assert time.monotonic() - began < 40  # mostly the starts of three processes
    assert "failed for 64 of 64 completions" in caplog.text
    # The next generation is asked again.
    np.testing.assert_equal(one.scores(answers("a", "bad")), [1, np.nan])
    one.close()


def test_what_fails_for_none_alone_fails_for_all() -> None:
    for on_failure in ("error", "skip"):
        one = function("fails_together", on_failure)
        if on_failure == "error":
            with pytest.raises(RunError, match="one at a time, with 2 completions but not with"):
                one.scores(answers("a", "b", "c"))
        else:
            np.testing.assert_equal(one.scores(answers("a", "b")), [np.nan, np.nan])
        np.testing.assert_equal(one.scores(answers("a")), [1])
        one.close()


UNTOLD = {"decorated", "defined_twice", "conditional", "bound"}


@pytest.mark.parametrize("name", [n for n, v in vars(own_rewards).items() if callable(v)])
def test_a_file_says_how_its_functions_are_called(name: str) -> None:
    written = signature_in(str(OWN), name)
    described = Signature(**reward_child._described(vars(own_rewards)[name]))
    assert written == (None if name in UNTOLD else described)


def test_a_module_says_it_too_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own_package" / "inner"
    folder.mkdir(parents=True)
    for path in (folder.parent / "__init__.py", folder / "__init__.py", folder / "rewards.py"):
        path.write_text("raise RuntimeError('it was run')\ndef f(level): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("own_package", "own_package.inner", "own_package.inner.rewards"):
        one = RewardFunction(f"{module}:f", {}, on_failure="error", seconds=60.0)
        with pytest.raises(InputError, match=r":f' wants 'level'; possible: .*, answer, and opt"):
            one.check_as_written(Columns(["answer"]))
        one.check_as_written(Columns(["level"]))
        one.close()
    for unknown in ("sys", "own_package.nowhere"):
        assert signature_in(unknown, "f") is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("columns", {}, "wants 'level'; possible: arguments named prompts, completions, refer"),
        ("optioned", {}, "wants 'factor'"),
        ("length", {"limit": 3}, "takes no 'limit', which is in its options"),
        ("optioned", {"factr": 1}, r"wants 'factor', takes no 'factr', .*did you mean 'factor'\?"),
        ("columns", {"level": 1, "mising": 2}, r"takes no 'mising', .*did you mean 'missing'\?"),
        ("optioned", {"factor": 1, "prompts": 1}, "has 'prompts' in its options"),
        ("by_place", {}, "wants 'completions' by place"),
        ("NOT_A_FUNCTION", {}, "cannot be loaded.*there is no function 'NOT_A_FUNCTION'"),
    ],
)
def test_what_cannot_be_called_is_refused(name: str, options: dict, said: str) -> None:
    one = function(name, **options)
    with pytest.raises(InputError, match=said) as run:
        one.check(Columns([]))
    one.close()
    if "cannot be loaded" in said:
        one.check_as_written(Columns([]))  # which no file says
        return
    with pytest.raises(InputError) as written:
        one.check_as_written(Columns([]))
    assert str(written.value) == str(run.value)


def test_an_option_of_another_name_is_passed_on() -> None:
    one = function("columns", level=[1], absent=2, missing=3)
    one.check(Columns([]))
    one.close()


def test_a_row_that_lacks_what_is_wanted_is_told_by_its_place() -> None:
    """Wherever it stands: of each of 300 rows, once."""
    rows = [Row({"text": "t", "level": n or None}, f"rows.jsonl:{n + 1}") for n in range(300)]
    wanted = (Reward(f"{OWN}:columns"),)
    with Rewarder(wanted, ScoringOptions(), max_completion_length=8) as rewarder:
        rewarder.check(rows)  # null is a value
        for place in (0, 150, 299):
            gap = [*rows]
            gap[place] = Row({"text": "t"}, rows[place].location)
            said = rf"wants 'level', which 1 of 300 rows \(first: rows.jsonl:{place + 1}\) lack"
            for check in (rewarder.check, rewarder.check_as_written):
                with pytest.raises(InputError, match=said):
                    check(gap)


def test_columns_are_those_of_all_rows() -> None:
    rows = [Row({"a": 1}, "m:1"), Row({"a": 1, "b": 2}, "m:2"), Row({"b": 3}, "m:3")]
    found = columns_of([*rows, rows[0]])
    assert list(found.names) == ["a", "b"]
    assert found.gaps == {"a": "1 of 4 rows (first: m:3)", "b": "2 of 4 rows (first: m:1)"}
    assert columns_of(None) == columns_of([])


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (None, "f", "cannot be read as Python: .*No such file"),
        ("def f(:", "f", "cannot be read as Python: .*line 1"),
        ("def g(): pass", "f", "defines no function 'f'; possible: g"),
        ("import nowhere_at_all\ndef f(): pass", "f", None),
    ],
)
def test_a_file_is_looked_at_before_it_runs(
    text: str | None, name: str, said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "own.py"
    if text is not None:
        path.write_text(text)
    wanted = (Reward(f"{path}:{name}"),)
    if said is not None:
        with pytest.raises(InputError, match=said):
            Rewarder(wanted, ScoringOptions(), max_completion_length=8)
        return
    with (
        Rewarder(wanted, ScoringOptions(), max_completion_length=8) as rewarder,
        pytest.raises(InputError, match=r"cannot be loaded: .*No module named 'nowhere_at_all'"),
    ):
        rewarder.check([])


def test_a_module_is_one_that_is_installed() -> None:
    with pytest.raises(InputError, match=r"no package 'nowhere_at_all' here; .*path.py:function"):
        Rewarder((Reward("nowhere_at_all.rewards:f"),), ScoringOptions(), max_completion_length=8)
    with (
        Rewarder(
            (Reward("statistics:mean"),), ScoringOptions(), max_completion_length=8
        ) as rewarder,
        pytest.raises(InputError, match="reward 'statistics:mean' wants 'data'"),
    ):
        rewarder.check([Row({"level": 3}, "memory:1")])


def test_columns_stand_in_the_order_of_the_rewards() -> None:
    wanted = (Reward(f"{OWN}:length"), Reward("exact_match"), Reward(f"{OWN}:opinions"))
    with Rewarder(wanted, ScoringOptions(), max_completion_length=8) as rewarder:
        rewarder.check([])
        found = np.stack([rewarder.score(one, answers("right", "b")) for one in wanted], axis=1)
    # The reference is "wrong" for both.
    np.testing.assert_equal(found, [[5, 0, 1], [1, 0, np.nan]])
    assert [one.name for one in wanted] == ["length", "exact_match", "opinions"]


def test_no_process_is_left() -> None:
    before = _children()
    wanted = (Reward(f"{OWN}:length"),)
    with Rewarder(wanted, ScoringOptions(), max_completion_length=8) as rewarder:
        rewarder.check([])
        assert len(_children() - before) == 1
    assert not _children() - before


def _children() -> set[str]:
    """Processes of this one."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()}
