"""Advice is a pure function of the answers: every combination of them has a sound verdict."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorakit.cli import main
from lorakit.cli.advise import show_advice
from lorakit.errors import InputError
from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.plan.advise.advice import VERDICTS, advise
from lorakit.plan.advise.collect import NO_VERDICT_BELOW
from lorakit.plan.advise.questions import (
    BY_NAME,
    QUESTIONS,
    Answers,
    Question,
    missing_questions,
    read_answers,
    whole_answers,
)
from lorakit.plan.advise.rules import MANY_CALLS, MIN_EXAMPLES_TO_TUNE, REASONS
from lorakit.recipe import load_recipe

DOCS = Path(__file__).parents[2] / "docs" / "advise.md"
# Numbers on both sides of every threshold.
COUNTS = {
    "examples": (0, MIN_EXAMPLES_TO_TUNE - 1, MIN_EXAMPLES_TO_TUNE, 999, 1_000, 50_000, 100_001),
    "calls": (0, MANY_CALLS - 1, MANY_CALLS),
}
# What the questions that only shape recipe and notes are combined with, one at a time.
NOT_DECIDING = ("hardware", "language", "measure", "private")

ANSWERS = Answers(
    need="behaviour", prompt="fails", facts="stable", cite=False, examples=1_000, calls=100_000,
    pressure="none", private=False, hardware="24gb", language="english", measure="reference",
)  # fmt: skip


def values_of(name: str) -> tuple[Any, ...]:
    question = BY_NAME[name]
    if question.is_number:
        return COUNTS[name]
    return tuple(question.choices) or (True, False)


def combinations(names: tuple[str, ...]) -> list[Answers]:
    """Every combination of the answers to `names`; all others as in `ANSWERS`."""
    values = itertools.product(*map(values_of, names))
    return [replace(ANSWERS, **dict(zip(names, one, strict=True))) for one in values]


DECIDING = tuple(name for name in BY_NAME if name not in NOT_DECIDING)


def test_only_those_answers_decide() -> None:
    used = {name for reason in REASONS for name in reason.answers}
    assert used == set(DECIDING)


def test_a_reason_rests_on_the_answers_it_names() -> None:
    """Changing any other answer never changes whether it holds."""
    for reason in REASONS:
        for one in combinations(reason.answers):
            holds = reason.applies(one)
            for other in set(BY_NAME) - set(reason.answers):
                for value in values_of(other):
                    assert reason.applies(replace(one, **{other: value})) == holds, (
                        reason.id,
                        other,
                    )


def test_every_combination_has_a_verdict_whose_reasons_agree() -> None:
    seen: dict[str, int] = dict.fromkeys(VERDICTS.values(), 0)
    used = set()
    for answers in combinations(DECIDING):
        given = advise(answers)
        seen[given.verdict] += 1
        sides = {"tune": given.verdict in ("fine-tune", "both")}
        sides["retrieve"] = given.verdict in ("retrieve", "both")
        for side, taken in sides.items():
            said = {reason.speaks_for for reason in given.reasons if reason.side == side}
            assert said == {taken}, answers
        for reason in given.overruled:
            assert reason.speaks_for and not sides[reason.side], answers
        used |= {reason.id for reason in (*given.reasons, *given.overruled)}
    assert min(seen.values()) > 0
    assert used == {reason.id for reason in REASONS}


def starting_recipes() -> dict[str, Answers]:
    """Every starting recipe that there is, with answers that lead to it."""
    names = ("need", "prompt", "cite", "examples", "hardware", "language", "measure")
    return {advise(answers).recipe: answers for answers in combinations(names)}


def hold_to_contract(text: str, answers: Answers, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.adapter.r == (32 if answers.language == "other" else 16)
    assert recipe.evaluate.retention is not None
    commented = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert len(commented) > 15
    assert max(map(len, text.splitlines())) <= 100


def test_every_section_of_a_starting_recipe_is_sound(tmp_path: Path) -> None:
    seen: set[str] = set()
    for text, answers in starting_recipes().items():
        sections = set(text.split("\n\n"))
        if not sections <= seen:
            hold_to_contract(text, answers, tmp_path / "recipe.yaml")
            seen |= sections
    assert len(seen) > 25


@pytest.mark.slow
def test_every_starting_recipe_is_sound(tmp_path: Path) -> None:
    recipes = starting_recipes()
    assert len(recipes) > 200
    for text, answers in recipes.items():
        hold_to_contract(text, answers, tmp_path / "recipe.yaml")


def test_what_does_not_decide_changes_no_verdict() -> None:
    for answers in combinations(NOT_DECIDING):
        assert advise(answers).verdict == advise(ANSWERS).verdict


def test_every_combination_says_how_many_to_collect() -> None:
    for answers in combinations(("need", "prompt", "facts", "cite", "examples", "measure")):
        given = advise(answers)
        sets = {one.set: one for one in given.collect}
        tuned = (given.then or given.verdict) in ("fine-tune", "both")
        assert ("train" in sets) == ("retention" in sets) == tuned
        assert ("documents" in sets) == (given.verdict in ("retrieve", "both"))
        assert {"in_domain", "out_of_domain"} <= set(sets)
        for one in given.collect:
            assert one.source and one.kind
            if one.set != "documents":
                assert one.low is not None and one.high is not None
                assert NO_VERDICT_BELOW <= one.low < one.high
        if tuned:
            assert sets["train"].low is not None
            assert sets["train"].low >= MIN_EXAMPLES_TO_TUNE
    assert NO_VERDICT_BELOW == MIN_EXAMPLES


# What somebody who does this for a living would say.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "discharge letters in the house style, 3,000 old ones, prompts keep slipping": (
        "fine-tune",
        {"examples": 3_000, "private": True, "measure": "judgement"},
    ),
    "answers from the drug handbook, cited, updated each month": (
        "retrieve",
        {"need": "knowledge", "prompt": "nearly", "facts": "months", "cite": True, "examples": 50},
    ),
    "guideline answers in a fixed clinical form, 2,000 examples": (
        "both",
        {"need": "both", "facts": "months", "cite": True, "examples": 2_000},
    ),
    "an internal tool that summarizes tickets well with a prompt, 500 calls a month": (
        "neither",
        {"prompt": "works", "calls": 500, "examples": 5_000},
    ),
    "bed occupancy, which changes by the minute": (
        "neither",
        {"need": "knowledge", "prompt": "nearly", "facts": "hours", "examples": 10_000},
    ),
    "a house style, but only 60 examples": ("neither", {"examples": 60}),
    "a classifier that works with a 3,000-token prompt, two million calls, cost hurts": (
        "fine-tune",
        {"prompt": "works", "calls": 2_000_000, "pressure": "cost", "measure": "form"},
    ),
    "company policy questions; somebody wants to 'train it on our wiki'": (
        "retrieve",
        {"need": "knowledge", "prompt": "fails", "facts": "months", "examples": 20_000},
    ),
    "house style and own facts, 80 examples so far": (
        "retrieve",
        {"need": "both", "facts": "months", "examples": 80},
    ),
    "nobody has tried a prompt, a hundred calls a month": (
        "neither",
        {"prompt": "untried", "calls": 100},
    ),
    "JSON for a form, nearly works, a million calls": (
        "fine-tune",
        {"prompt": "nearly", "calls": 1_000_000, "measure": "form", "examples": 800},
    ),
    "anatomy questions that the base answers right already": (
        "neither",
        {"need": "knowledge", "prompt": "works", "examples": 0},
    ),
    "legal answers that must name the paragraph; the style is fine": (
        "retrieve",
        {"prompt": "works", "cite": True, "facts": "stable", "calls": 1_000},
    ),
    "a triage bot on live waiting times that must hold a strict form": (
        "fine-tune",
        {"need": "both", "facts": "hours", "examples": 1_500},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_practitioner_would_say(case: str) -> None:
    verdict, changed = CASES[case]
    assert advise(replace(ANSWERS, **changed)).verdict == verdict


@pytest.mark.parametrize(
    ("changed", "verdict", "then", "headline"),
    [
        ({"measure": "form"}, "neither", "fine-tune", "Collect at least 50 more examples, then"),
        ({}, "neither", "fine-tune", "Collect at least 350 more examples, then fine-tune."),
        (
            {"need": "both", "facts": "months"}, "retrieve", "both",
            "Retrieve now; collect at least 350 more examples, then fine-tune as well.",
        ),
        ({"prompt": "untried", "calls": 100}, "neither", None, "Neither: a good prompt, for now."),
        ({"need": "knowledge"}, "retrieve", None, "Retrieve; do not fine-tune."),
    ],
)  # fmt: skip
def test_too_few_examples_are_to_be_collected(
    changed: dict[str, Any],
    verdict: str,
    then: str | None,
    headline: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    advice = advise(replace(ANSWERS, examples=150, **changed))
    assert (advice.verdict, advice.then) == (verdict, then)
    show_advice(advice)
    told = capsys.readouterr().out
    assert told.startswith(headline)
    assert ("\n  train: " in told) == (then is not None)


def test_the_recipe_follows_the_answers(tmp_path: Path) -> None:
    def recipe(**changed: Any) -> Any:
        path = tmp_path / "recipe.yaml"
        path.write_text(advise(replace(ANSWERS, **changed)).recipe, encoding="utf-8")
        return load_recipe(path)

    assert recipe(hardware="24gb").base.quantization == "nf4"
    assert recipe(hardware="80gb").base.quantization == "none"
    epochs = [recipe(examples=n).train.num_train_epochs for n in (500, 2_000, 50_000)]
    assert epochs == [3, 2, 1]
    dropouts = [recipe(examples=n).adapter.lora_dropout for n in (500, 5_000, 200_000)]
    assert dropouts == [0.1, 0.05, 0]
    looked_up = [recipe(need="both", calls=n).compare for n in (0, 50_000, 10**12)]
    assert [one.calls for one in looked_up] == [1, 600_000, 10**9]
    assert {one.documents for one in looked_up} == {"documents/"}
    assert recipe(measure="form").evaluate.primary["in_domain"] == "json_schema"
    assert recipe(measure="reference").evaluate.primary["in_domain"] == "token_f1"


def test_passages_are_not_given_twice() -> None:
    """Rows that hold them are what is trained on; `compare` looks them up itself."""
    for answers in combinations(DECIDING):
        found = advise(answers)
        in_rows = "the retrieved passages, then the question" in found.recipe
        assert in_rows == ("or they are there twice" in found.recipe), answers
        assert not in_rows or "\ncompare:" in found.recipe


def test_the_docs_have_every_question_and_reason() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for question in QUESTIONS:
        assert f"`{question.name}`" in text
    for reason in REASONS:
        assert f"| `{reason.id}` |" in text
        for paper in re.findall(r"arXiv (\S+?),", reason.source):
            assert paper in text


FLAGS = [
    "--need", "both", "--prompt", "fails", "--cite", "--facts", "months", "--examples", "2,000",
    "--calls", "50000", "--pressure", "none", "--no-private", "--hardware", "24gb",
    "--language", "english", "--measure", "reference",
]  # fmt: skip


def test_flags_alone_do_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    assert main(["advise", *FLAGS, "--json", "--output", str(path)]) == 0
    given = json.loads(capsys.readouterr().out)
    assert given["verdict"] == "both"
    assert given["answers"]["examples"] == 2_000
    assert given["output"] == str(path)
    assert path.read_text(encoding="utf-8") == given["recipe"]
    load_recipe(path)
    assert main(["advise", *FLAGS, "--output", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_command_it_prints_gives_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", *FLAGS]) == 0
    shown = capsys.readouterr().out
    assert "Both" in shown and "arXiv 2312.05934" in shown
    line = next(line for line in shown.splitlines() if line.startswith("  lorakit advise"))
    again = line.split()[2 : line.split().index("--output")]
    assert main(["advise", *FLAGS, "--json"]) == main(["advise", *again, "--json"]) == 0
    first, second = capsys.readouterr().out.split("\n}\n{\n")
    assert json.loads(f"{first}}}") == json.loads(f"{{{second}")


def test_answers_come_from_a_file_and_flags_replace_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answers.yaml"
    path.write_text(yaml.safe_dump(ANSWERS.to_json()))
    assert main(["advise", "--answers", str(path), "--json", "--examples", "10"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert given["verdict"] == "neither"
    assert given["answers"] == replace(ANSWERS, examples=10).to_json()
    assert [one["id"] for one in given["overruled"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("need: behavior", "Did you mean behaviour"),
        ("ned: both", "Did you mean need"),
        ("examples: many", "a whole number"),
        ("examples: -3", "a whole number"),
        ("examples: 1e99", "a whole number"),
        ("examples: [1, 2]", "a whole number"),
        ("cite: maybe", "possible: yes, no"),
        ("- both", "holds no answers by name"),
        ("need: [", "is no YAML or JSON"),
        ("\x00", "is no YAML or JSON"),
        ("", "holds no answers by name"),
        ("need: both", "have no answer, and there is no terminal"),
    ],
)
def test_wrong_answers_are_told(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answers.yaml"
    path.write_text(text)
    assert main(["advise", "--answers", str(path), "--json"]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "typed", ["\u00b2", "\u2460", "\u0661", "1" * 5000, "-1", "1.0", "\0", "", []]
)
def test_what_is_no_answer_is_refused_whatever_it_is(question: Question, typed: object) -> None:
    with pytest.raises(InputError, match="is no answer; possible: "):
        question.read(typed)


def test_an_absent_file_and_folder_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", "--answers", str(tmp_path / "no.yaml")]) == 2
    assert main(["advise", *FLAGS, "--output", str(tmp_path / "no" / "recipe.yaml")]) == 2
    shown = capsys.readouterr().err
    assert "cannot be read" in shown and "does not exist" in shown


def test_how_facts_change_is_asked_only_where_there_are_facts() -> None:
    known = read_answers({"need": "behaviour", "cite": False})
    assert "facts" not in [question.name for question in missing_questions(known)]
    known["cite"] = True
    assert "facts" in [question.name for question in missing_questions(known)]
    with pytest.raises(InputError, match="--facts"):
        whole_answers(known)


def typed(lines: Sequence[str], *arguments: str) -> tuple[int, str]:
    """Exit code and what a terminal showed, of `lorakit advise`, answered prompt by prompt."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lorakit", "advise", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=_own_terminal,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(terminal)
    try:
        shown = b""
        for line in lines:
            shown += _until(controller, b"> ")
            os.write(controller, line.encode())
        shown += _until(controller, None)
        return process.wait(timeout=60), shown.decode("utf-8", "replace")
    finally:
        process.kill()
        os.close(controller)


def _until(controller: int, end: bytes | None) -> bytes:
    """What is shown until it ends with `end`; None: until the other end is closed."""
    shown = b""
    while end is None or not shown.endswith(end):
        assert select.select([controller], [], [], 60)[0], f"nothing more after {shown!r}"
        try:
            part = os.read(controller, 1)
        except OSError:  # Linux: the other end is closed
            part = b""
        if not part:
            assert end is None, f"ended after {shown!r}"
            break
        shown += part
    return shown


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C typed there is a signal
    # A shell without job control ignores it for what it starts in the background, such as this test
    # run, and Python leaves that as it is.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_person_is_asked_and_may_err() -> None:
    lines = ["?", "nonsense", "1", "fails", "n", "many", "1,500", "20000", "1", "y", "3", "1", "2"]
    code, shown = typed([f"{line}\n" for line in lines])
    assert code == 0, shown
    assert "Fine-tuning teaches how to respond" in shown  # ?
    assert "'nonsense' is no answer" in shown
    assert "'many' is no answer" in shown
    assert "Fine-tune." in shown
    assert "--examples 1500" in shown


def test_ctrl_c_ends_with_130_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    code, shown = typed(["1\n", "\x03"], "--output", str(path))
    assert code == 130, shown
    assert shown.endswith("interrupted; nothing was written\r\n")
    assert shown.count("interrupted") == 1 and "error" not in shown
    assert not path.exists()


def test_the_end_of_input_names_what_is_missing() -> None:
    code, shown = typed(["1\n", "fails\n", "\x04"])
    assert code == 2, shown
    assert "--examples" in shown and "--need" not in shown


def test_a_size_between_those_of_the_list_is_told_what_they_mean() -> None:
    with pytest.raises(InputError, match="8gb, a GPU with about 8 to 16 GB; ") as told:
        read_answers({"hardware": "12gb"})
    assert "Did you mean" not in str(told.value)
