"""The maths scorer: which answer is the final one, what equals what, and what is stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from lorakit.tasks import ScoringOptions, _processes
from lorakit.tasks._processes import math_process
from lorakit.tasks.math import final_answer, number, same_answers, scores


def right(answer: str, reference: str) -> float:
    return float(scores([answer], [reference], ScoringOptions())[0])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 dogs eat 4 times: #### 12", "12"),
        ("So it is \\boxed{7} and not \\boxed{\\frac{1}{2}}, see above 3.", "\\frac{1}{2}"),
        ("\\boxed{1} then \\boxed{\\boxed{2} + 3} and \\boxed{4", "\\boxed{2} + 3"),
        ("The answer is 42 apples because 6*7=42 and 5 are left.", "42"),
        ("Answer: $x=3$.", "x=3"),
        ("The answer is 5. No, the answer is 6, not 7.", "6"),
        ("#### 5 or #### 6", "6"),
        ("It costs $1,234.50 in total.", "1,234.50"),
        ("He pays $5 and gets $7.", "7"),
        ("We get $x^2$ apples, 5 of them.", "x^2"),
        ("first 5, then -7.", "-7"),
        ("3/4", "3/4"),
        ("\\frac{3}{4}", "\\frac{3}{4}"),
        ("1/2 cup", "1/2"),
        ("The answer is no. At first there were 8.", "8"),
        ("He has $16 + $2 = $<<16+2=18>>18.\nA: 18", "18"),
        ("That is $90-$6.00=$84", "84"),
        ("no", None),
        ("", None),
        ("<think>2 + 2 = 4</think><answer>5</answer>", "5"),
        ("<think>the answer is 4, no: 5</think>\n<answer>5</answer>", "5"),
        ("<think>\\boxed{4} or $4$?</think>So <answer>5</answer> it is, not 6.", "5"),
        ("<think>is it 4?</think>Then 7.", "7"),
        ("4, no</think>It is 7.", "7"),  # where the template opened the thought
        ("<answer>4</answer> or <answer>The answer is \\boxed{5}</answer>", "5"),
        ("<think>a</think><answer>5", "5"),  # a stop string took the end away
        ("<think>2 + 2 = 4, the answer is 4", None),
        ("<answer>4</answer><think>or 5", None),
        ("<think>4</think>", None),
        ("<think>4</think><answer></answer>", None),
        ("<answer>" * 50_000 + "4", "4"),
        ("<think>" * 50_000 + "4</think>" + "</answer>" * 50_000, None),
    ],
)
def test_final_answers(text: str, found: str | None) -> None:
    assert final_answer(text) == found


def test_plain_numbers() -> None:
    assert number("1,234.50") == Fraction(2469, 2) == number("2469/2")
    assert number("\u2212.5") == Fraction(-1, 2) == number("-0.5")
    assert number("1/0") is number("x") is number("1.2.3") is number("3%") is None
    assert number("1 234 567.5") == number("1,234,567.5") == Fraction(2469135, 2)
    assert number("3 1/2") == number("7 / 2") == Fraction(7, 2) and number("-3 1/2") == -3.5
    assert number("1 234/5") == Fraction(1234, 5)
    for several in ("1,2", "1, 2", "1 2", "3,5,7", "12,34", "1,2345", "1 2 3", "3 1/0", "1,2/3"):
        assert number(several) is None


@pytest.mark.parametrize(
    ("answer", "reference", "equal"),
    [
        ("So #### 12.0", "#### 12", 1),
        ("\\boxed{\\frac12}", "0.5", 1),
        ("$x^2+2x+1$", "$(x+1)^2$", 1),
        ("$\\sqrt{8}$", "\\boxed{2\\sqrt2}", 1),
        ("\\boxed{\\{1,2\\}}", "\\boxed{\\{2,1\\}}", 1),
        ("\\boxed{(1,2)}", "\\boxed{(2,1)}", 0),
        ("\\boxed{72\\text{ cm}}", "72", 1),
        ("\\boxed{0.333333}", "\\boxed{\\frac{1}{3}}", 1),
        ("\\boxed{0.34}", "\\boxed{\\frac{1}{3}}", 0),
        ("it is 13", "#### 12", 0),
        ("", "#### 12", 0),
        ("\\boxed{\\frac{1}{", "#### 12", 0),
        ("12", "yes", 0),
        # Two numbers are not one.
        ("\\boxed{12}", "\\boxed{1,2}", 0),
        ("\\boxed{1,2}", "\\boxed{1,2}", 1),
        ("#### 357", "\\boxed{3,5,7}", 0),
        ("#### 15", "\\boxed{1,5}", 0),
        ("\\boxed{12}", "\\boxed{1 2}", 0),
        ("\\boxed{15.5}", "\\boxed{3 1/2}", 0),
        ("\\boxed{3.5}", "\\boxed{3 1/2}", 1),
        ("\\boxed{1,234}", "1234", 1),
        # Guesses, and what is true of any number, are no answer.
        ("\\boxed{4,5,6}", "#### 5", 0),
        ("\\boxed{\\{4,5,6\\}}", "#### 5", 0),
        ("\\boxed{[0,10]}", "#### 5", 0),
        ("\\boxed{5 \\text{ or } 6}", "#### 5", 0),
        ("\\boxed{\\pm 5}", "#### 5", 0),
        ("\\boxed{x}", "#### 5", 0),
        ("\\boxed{5<6}", "#### 5", 0),
        ("\\boxed{0/0}", "#### 5", 0),
        ("\\boxed{\\infty}", "#### 5", 0),
        ("<think>5</think><answer>6</answer>", "#### 5", 0),
        ("<think>it is 5", "#### 5", 0),
        ("<think>6</think><answer>5</answer>", "<think>4 + 1</think><answer>5</answer>", 1),
        # The question said again is no answer to it.
        ("\\boxed{37*43}", "#### 1591", 0),
        ("\\boxed{37 \\times 43}", "#### 1591", 0),
        ("<think>a</think><answer>705+863</answer>", "<answer>1568</answer>", 0),
        ("\\boxed{705 + {863}}", "1568", 0),
        ("\\boxed{(3)(4)}", "12", 0),
        ("\\boxed{2^{10}}", "1024", 0),
        ("\\boxed{\\binom{5}{2}}", "10", 0),
        ("\\boxed{\\log_{2} 8}", "3", 0),
        ("#### 9-4", "5", 0),
        ("#### 9-4=5", "5", 1),
        ("\\boxed{37*43=37*43}", "#### 1591", 0),
        ("\\boxed{5\\times10^{3}}", "5000", 1),
        ("\\boxed{10^{-2}}", "0.01", 1),
        ("\\boxed{110^{2}}", "12100", 0),
        ("\\boxed{1.5 \\cdot 10^6}", "1,500,000", 1),
        ("$x=-3$", "-3", 1),
        ("\\boxed{1+2\\sqrt{2}}", "\\boxed{\\sqrt8+1}", 1),
        ("\\boxed{2+3i}", "\\boxed{3i+2}", 1),
    ],
)
def test_equal_as_mathematics(answer: str, reference: str, equal: int) -> None:
    assert right(answer, reference) == equal


def test_from_another_thread_and_what_never_ends_is_stopped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = math_process(seconds=1.0)
    monkeypatch.setattr("lorakit.tasks.math.math_process", lambda: process)
    found: list[float] = []

    def compare() -> None:
        found.append(right("\\boxed{9^{9^{9^{9}}}}", "\\boxed{x+1}"))
        found.append(right("\\boxed{1+x}", "\\boxed{x+1}"))  # a new child serves it

    thread = threading.Thread(target=compare)
    started = time.monotonic()
    thread.start()
    thread.join()
    process.child.close()
    assert found == [0, 1] and time.monotonic() - started < 60
    assert "1 of 1 comparisons took too much time or memory" in caplog.text


def test_answers_vote_as_mathematics() -> None:
    texts = [
        "so $\\frac{1}{2}$",
        "0.5",
        "#### 1/2",
        "the answer is 2",
        "I give up",
        "\\boxed{\\sqrt{4}}",
        "$x+1$",
        "$1+x$",
        "2.0000001",
    ]
    assert same_answers(texts) == [0, 0, 0, 1, None, 1, 2, 2, 1]
    assert same_answers([]) == []


def test_what_cannot_be_compared_in_time_votes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps no other from its own: it is held against one number, once."""
    process = math_process(seconds=1.0)
    monkeypatch.setattr("lorakit.tasks.math.math_process", lambda: process)
    endless = "$9^{9^{9^{9}}}$"
    texts = [endless, "$x+1$", endless, "$1+x$", "3", "$\\sqrt{9}$"]
    assert same_answers(texts) == [0, 1, 0, 1, 2, 2]
    process.child.close()


def test_nothing_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    code = f"__import__('pathlib').Path('{trap}').touch()"
    for text in (code, f"\\boxed{{{code}}}", f"${code}$", f"#### {code}", f"answer: {code} + 1"):
        assert right(text, "\\boxed{x+1}") == 0
    assert not trap.exists()
    source = Path(_processes.__file__).with_name("_math_child.py").read_text()
    assert "ExprExtractionConfig" not in source  # the one that leads to SymPy's parse_expr


def test_a_child_that_was_ended_is_started_again() -> None:
    process = math_process()
    assert process.ask("x+1", "1+x") is True
    assert process.child.pid is not None
    os.kill(process.child.pid, signal.SIGKILL)
    os.waitpid(process.child.pid, 0)
    assert process.ask("x+1", "1+x") is True


def test_references_without_mathematics_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert scores(["1", "2"], ["one", "2"], ScoringOptions()).tolist() == [0, 1]
    assert "math: 1 of 2 references hold neither a formula nor a number" in caplog.text
    scores(["1"], ["one"], ScoringOptions(set_name="retention"))
    assert "math (retention): 1 of 1 references hold neither" in caplog.text
    caplog.clear()
    scores(["1"], ["one"], ScoringOptions(knows_references=True))
    assert not caplog.text


def test_real_answers_to_real_problems(shared_data: Path) -> None:
    """GSM8K: each reference is right for itself, wrong for the next; real solutions are told."""
    path = shared_data / "instruct" / "gsm8k_test.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()][:200]
    answers = [row["answer"] for row in rows]
    assert scores(answers, answers, ScoringOptions()).mean() == 1
    finals = [str(row["final"]) for row in rows]
    assert scores(finals, answers, ScoringOptions()).mean() == 1
    others = scores(answers[1:] + answers[:1], answers, ScoringOptions())
    same = [a == b for a, b in zip(finals[1:] + finals[:1], finals, strict=True)]
    assert others.tolist() == [float(one) for one in same]


def test_what_models_answered_is_judged_as_its_authors_did(shared_data: Path) -> None:
    path = shared_data / "instruct" / "gsm8k_example_model_solutions.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    references = [row["ground_truth"] for row in rows]
    for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
        found = scores([row[model]["solution"] for row in rows], references, ScoringOptions())
        assert found.tolist() == [float(row[model]["is_correct"]) for row in rows]


def test_the_same_comparison_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes its whole time does not take it once for each completion of a group."""
    asked: list[tuple[str, str]] = []

    class Counting:
        def ask(self, answer: str, reference: str) -> None:
            asked.append((answer, reference))

    monkeypatch.setattr("lorakit.tasks.math.math_process", Counting)
    answers = ["\\boxed{9^{9^9}}", "it is $9^{9^9}$", "\\boxed{x}", "#### 7"] * 8
    assert scores(answers, ["$y$"] * 32, ScoringOptions()).tolist() == [0] * 32
    assert asked == [("9^{9^9}", "y"), ("x", "y"), ("7", "y")]
