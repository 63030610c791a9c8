"""Scorers: laws over every file of the folder, and what each one promises."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from lorakit import tasks
from lorakit.errors import DataError, RecipeError
from lorakit.tasks import ScoringOptions
from lorakit.tasks._processes import schema_process
from lorakit.tasks.content import MAX_OTHERS, other_references
from lorakit.tasks.json_schema import load_schema
from lorakit.tasks.outline import sections
from lorakit.tasks.token_f1 import words

OPTIONS = ScoringOptions(regex=r"\d+ mg", json_schema={"type": "object", "required": ["dose"]})
ON_ONE_ANSWER = [name for name in tasks.names() if not tasks.scorer(name).IS_OF_A_SET]

NOTE = (
    "Problem: fever and a rash for two days\n"
    "Assessment:\nmeasles is likely, the lungs are clear\n"
    "Plan: paracetamol 500 mg, rest, isolation for four days\n"
)
WRONG_FACTS = (
    "Problem: broken wrist after falling\n"
    "Assessment:\nfracture without displacement seen on x-ray\n"
    "Plan: plaster cast, ibuprofen 200 mg, check next Tuesday\n"
)


def score(name: str, answer: str, reference: str, options: ScoringOptions = OPTIONS) -> float:
    (value,) = tasks.scorer(name).scores([answer], [reference], options)
    return float(value)


def test_the_folder_holds_what_recipes_may_name() -> None:
    assert set(tasks.names()) >= {
        "code",
        "content",
        "exact_match",
        "json_schema",
        "outline",
        "regex",
        "rouge_l",
        "section_f1",
        "token_f1",
    }
    with pytest.raises(RecipeError, match="scorer 'bleu' does not exist; scorers are code"):
        tasks.scorer("bleu")


@pytest.mark.parametrize("name", tasks.names())
def test_every_scorer_says_what_it_is(name: str) -> None:
    scorer = tasks.scorer(name)
    assert name == scorer.NAME
    assert scorer.HIGHER_IS_BETTER is True
    assert 0 < len(scorer.SUMMARY) <= 100 and "\n" not in scorer.SUMMARY
    assert tasks.summaries()[name] == scorer.SUMMARY


@pytest.mark.parametrize("name", [name for name in tasks.names() if name != "code"])
def test_what_a_scorer_needs_is_there_or_named(name: str) -> None:
    """Not of code, whose jail has a room of its own."""
    scorer = tasks.scorer(name)
    scorer.check(OPTIONS)
    if name in vars(OPTIONS):
        with pytest.raises(RecipeError, match=f"set evaluate.{name}"):
            scorer.check(ScoringOptions())
    else:
        scorer.check(ScoringOptions())


def test_only_content_is_of_a_set() -> None:
    assert set(tasks.names()) - set(ON_ONE_ANSWER) == {"content"}


ODD = [
    "",
    " \n\t",
    "\x00\ufffd",
    "\u0423 \u043f\u0430\u0446\u0456\u0454\u043d\u0442\u0430 "
    "\u0433\u0430\u0440\u044f\u0447\u043a\u0430: 39,5 \u00b0C",
    "\u60a3\u8005\u53d1\u70e7\u4e86",
    "\U0001f469\u200d\u2695\ufe0f" * 3,
    "e\u0301",
    "[" * 100_000,
    "Plan:" * 1000,
    "#" * 10_000,
    "*" * 10_000 + ":",
    "A " * 10_000,
    "word " * 20_000,
    "x" * 200_000,
    NOTE,
]


@pytest.mark.parametrize("name", tasks.names())
def test_any_answer_has_a_score(name: str) -> None:
    """Empty, foreign and huge answers: one finite float64 each, within the bounds, in no time."""
    references = [NOTE, "", "39,5 \u00b0C"] * (len(ODD) // 3)
    started = time.monotonic()
    values = tasks.scorer(name).scores(ODD, references, OPTIONS)
    assert time.monotonic() - started < 20
    assert values.dtype == np.float64 and values.shape == (len(ODD),)
    assert np.isfinite(values).all() and (np.abs(values) <= 1).all()


@pytest.mark.parametrize("name", ON_ONE_ANSWER)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_score_is_in_bounds_and_the_same_alone(name: str, data: st.DataObject) -> None:
    texts = st.lists(st.text(max_size=60), min_size=2, max_size=4)
    answers = data.draw(texts)
    references = data.draw(st.lists(st.text(), min_size=len(answers), max_size=len(answers)))
    together = tasks.scorer(name).scores(answers, references, OPTIONS)
    alone = [score(name, a, r) for a, r in zip(answers, references, strict=True)]
    assert together.tolist() == alone
    assert (together >= 0).all() and (together <= 1).all()


def test_what_is_right_or_wrong() -> None:
    found = {name for name in tasks.names() if tasks.scorer(name).IS_RIGHT_OR_WRONG}
    assert found == {"code", "exact_match", "json_schema", "math", "outline", "regex", "tags"}
    assert {n for n in found if tasks.scorer(n).HAS_FINAL_ANSWER} == {"exact_match", "math"}


@pytest.mark.parametrize("name", tasks.names())
def test_right_or_wrong_is_what_a_scorer_says(name: str) -> None:
    """Of two answers, one of which is partly right by every scorer that knows parts."""
    answers = [*ODD, NOTE.replace("rash", "cough").partition("Plan")[0]]
    values = tasks.scorer(name).scores(answers, [NOTE] * len(answers), OPTIONS)
    assert bool(np.isin(values, (0, 1)).all()) == tasks.scorer(name).IS_RIGHT_OR_WRONG
    if tasks.scorer(name).HAS_FINAL_ANSWER:
        assert tasks.scorer(name).IS_RIGHT_OR_WRONG


SAID = ["The answer is 7.", "7", "#### 7.0", "so 8", "no number", "", "$\\frac{14}{2}$", "THE 7!"]


@pytest.mark.parametrize("name", [n for n in tasks.names() if tasks.scorer(n).HAS_FINAL_ANSWER])
def test_who_votes_votes_for_what_is_scored(name: str) -> None:
    """Equal final answers are scored alike, numbered as they come; who has none is never right."""
    texts = [*SAID, *ODD, *SAID]
    found = tasks.voter(name).same_answers(texts)
    seen = [number for number in found if number is not None]
    assert len(found) == len(texts) and list(dict.fromkeys(seen)) == list(range(max(seen) + 1))
    assert found[: len(SAID)] == found[-len(SAID) :]
    again = tasks.voter(name).same_answers(texts[::-1])[::-1]
    pairs = {(one, other) for one, other in zip(found, again, strict=True)}
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
    for reference in [*SAID, NOTE]:
        values = tasks.scorer(name).scores(texts, [reference] * len(texts), OPTIONS)
        by_number: dict[int | None, set[float]] = {}
        for number, value in zip(found, values.tolist(), strict=True):
            by_number.setdefault(number, set()).add(value)
        assert by_number.pop(None, {0.0}) == {0.0}
        assert all(len(scored) == 1 for scored in by_number.values())


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "outline", "section_f1"])
@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_the_reference_itself_is_right(name: str, text: str) -> None:
    whole = all(section.content for section in sections(text))
    once = len({section.heading for section in sections(text)}) == len(sections(text))
    if whole and once:
        assert score(name, text, text) == 1


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("The Cat, sat.", ["cat", "sat"]),
        ("a an the", ["a", "an", "the"]),
        ("A", ["a"]),
        ("+", ["+"]),
        (" ? ! ", ["?", "!"]),
        ("", []),
        ("1.5 mg, 120/80, 3,000", ["1.5", "mg", "120/80", "3,000"]),
        ("15 mg.", ["15", "mg"]),
        ("-5 or 5- and follow-up", ["-5", "or", "5", "and", "followup"]),
        ("39,5 \u00b0C \u00abso\u00bb", ["39,5", "c", "so"]),
        ("\u60a3\u8005 ok", ["\u60a3", "\u8005", "ok"]),
        ("e\u0301", ["\u00e9"]),
    ],
)
def test_words(text: str, read: list[str]) -> None:
    assert words(text) == read


def test_token_f1_by_hand() -> None:
    assert score("token_f1", "take two tablets", "take one tablet") == pytest.approx(1 / 3)
    # Each word counts as often as it occurs: 2 shared of 3 and 4.
    assert score("token_f1", "no no yes", "no no no maybe") == pytest.approx(2 * 2 / 7)
    assert score("token_f1", "", "no") == score("token_f1", "no", "") == 0
    assert score("token_f1", "1.5 mg", "15 mg") == 0.5
    assert score("token_f1", "", "") == 1


@settings(max_examples=100, deadline=None)
@given(
    answer=st.text(alphabet="ab c.\n", max_size=30),
    reference=st.text(alphabet="ab c.", max_size=30),
)
def test_token_f1_is_symmetric_and_rouge_l_is_the_library_on_ascii(
    answer: str, reference: str
) -> None:
    assert score("token_f1", answer, reference) == score("token_f1", reference, answer)
    library = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert score("rouge_l", answer, reference) == library


def test_rouge_l_is_about_order_and_reads_every_script() -> None:
    assert score("rouge_l", "b a", "a b") == 0.5 < score("token_f1", "b x", "x b") == 1
    cyrillic = "\u0432\u0438\u0441\u043e\u043a\u0430 \u0442\u0435\u043c\u043f\u0435\u0440\u0430"
    assert score("rouge_l", cyrillic.upper(), cyrillic) == 1
    assert 0 < score("rouge_l", "\u60a3\u8005\u597d", "\u60a3\u8005") < 1


def test_exact_match() -> None:
    assert score("exact_match", "The rest, twice daily.", "rest twice daily") == 1
    assert score("exact_match", "daily twice", "twice daily") == 0
    assert score("exact_match", "1.5", "15") == score("exact_match", "-5", "5") == 0


@pytest.mark.parametrize("name", ["exact_match", "token_f1"])
@pytest.mark.parametrize("reference", ["A", "a.", "The", "+", "-", "?", "\u2713", "..."])
def test_nothing_is_not_the_right_answer(name: str, reference: str) -> None:
    """Choices and signs that are no words: a reward that nothing earns teaches to say nothing."""
    for empty in ("", " ", "\n"):
        assert score(name, empty, reference) == 0
    assert score(name, reference, reference) == 1
    assert score(name, "B", reference) == 0
    assert score(name, f" {reference}\n", reference) == 1


def test_regex_is_searched_for_in_the_answer_alone() -> None:
    assert score("regex", "take 500 mg", "") == 1
    assert score("regex", "take some", "500 mg") == 0
    anchored = ScoringOptions(regex=r"\Ayes\Z")
    assert score("regex", "yes", "", anchored) == 1
    assert score("regex", "yes\n", "", anchored) == 0
    with pytest.raises(RecipeError, match=r"set evaluate\.regex"):
        score("regex", "a", "a", ScoringOptions())
    with pytest.raises(RecipeError, match=r"'\(' is no pattern \(missing \)"):
        tasks.scorer("regex").check(ScoringOptions(regex="("))


def test_a_pattern_that_never_ends_is_stopped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    options = ScoringOptions(regex=r"^(([a-z])+.)+[A-Z]([a-z])+$")
    started = time.monotonic()
    assert score("regex", "a" * 5000, "", options) == 0
    assert time.monotonic() - started < 10
    assert (
        "on 1 of 1 answers (the first has 5000 characters), which count as not found" in caplog.text
    )


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ('{"dose": 5}', True),
        (' {"dose": null}\n', True),
        ("{}", False),
        ('```json\n{"dose": 5}\n```', False),
        ('{"dose": 5} as asked', False),
        ('{"dose": NaN}', False),
        ('{"dose": 5, "dose": 6}', False),
        ('{"dose": ' + "[" * 50_000, False),
        ('{"dose": ' + "9" * 10_000 + "}", False),
        ("", False),
    ],
)
def test_json_schema(answer: str, accepted: bool) -> None:
    assert score("json_schema", answer, "") == accepted


@pytest.mark.parametrize("number", ["9" * 400, "1e400"])
def test_a_number_beyond_any_that_divides_is_not_accepted(number: str) -> None:
    options = ScoringOptions(json_schema={"multipleOf": 0.1})
    assert score("json_schema", "0.5", "", options) == 1
    assert score("json_schema", number, "", options) == 0


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(a+)+$"},
        {"patternProperties": {"^(a+)+$": {"type": "integer"}}},
        {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
    ],
)
def test_a_schema_that_never_ends_is_stopped_and_told(
    schema: dict, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = schema_process(seconds=1.0)
    monkeypatch.setattr("lorakit.tasks.json_schema.schema_process", lambda: process)
    caplog.set_level(logging.WARNING)
    options = ScoringOptions(json_schema=schema)
    long = "a" * 60 + "!"
    answers = [json.dumps(long if "type" in schema else {long: 1})] * 8
    started = time.monotonic()
    # One of eight that are alike takes its time; a new process serves what comes behind them.
    found = tasks.scorer("json_schema").scores([*answers, '"aa"'], [""] * 9, options)
    assert found.tolist() == [0] * 8 + [1]
    assert time.monotonic() - started < 30
    assert "8 of 9 answers took too much time" in caplog.text
    process.child.close()


def test_json_schema_is_read_strictly_and_never_fetched(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"

    def read(text: str) -> object:
        path.write_text(text, encoding="utf-8")
        return load_schema(path)

    assert read("{}") == {}
    assert read("true") is True
    inner = {"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n"}
    options = ScoringOptions(json_schema=read(json.dumps(inner)))
    assert score("json_schema", "5", "", options) == 1
    assert score("json_schema", '"5"', "", options) == 0
    for text, message in [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"type": "objekt"}', "no JSON schema"),
        ('{"$ref": "https://example.org/s.json"}', "nothing is fetched"),
        ('{"anyOf": [{"$ref": "other.json#/a"}]}', "nothing is fetched"),
        ("5", "has to be an object"),
        ("null", "has to be an object"),
        ('{"$schema": 5}', "has to be an object"),
        # Found here, not when the first answer of hours of training has that property.
        ('{"properties": {"a": {"$ref": "#/$defs/none"}}}', "'#/\\$defs/none', which is not"),
        ('{"$dynamicRef": "#none"}', "which is not in the file"),
        ('{"$ref": "#"}', "that part itself"),
        ('{"$id":"http://a/","not":{"$id":"b","$defs":{"c":{}},"$ref":"#/$defs/c"}}', "Remove .id"),
    ]:
        with pytest.raises(RecipeError, match=message):
            read(text)
    for text in [  # references that lead somewhere
        '{"$id": "http://a/b", "items": {"$id": "c", "$defs": {"m": {}}, "$ref": "#/$defs/m"}}',
        '{"$defs": {"n": {"$anchor": "m"}}, "$ref": "#m"}',
        '{"properties": {"$id": {"type": "string"}, "$ref": {"type": "string"}}}',
        '{"properties": {"part": {"$ref": "#"}}}',
    ]:
        assert read(text) == json.loads(text)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_schema(tmp_path / "none.json")
    with pytest.raises(RecipeError, match="not in the file"):
        score("json_schema", "5", "", ScoringOptions(json_schema={"$ref": "#/$defs/n"}))
    with pytest.raises(RecipeError, match=r"set evaluate\.json_schema"):
        score("json_schema", "5", "", ScoringOptions())


@pytest.mark.parametrize(
    ("line", "heading"),
    [
        ("Plan:", "plan"),
        ("Plan: rest", "plan"),
        ("Follow-up care and advice: none", "follow-up care and advice"),
        ("## Plan", "plan"),
        ("### Plan:", "plan"),
        ("**Plan:** rest", "plan"),
        ("**Plan**: rest", "plan"),
        ("  Plan:", "plan"),
        (
            "\u041f\u043b\u0430\u043d: \u0441\u043f\u043e\u043a\u0456\u0439",
            "\u043f\u043b\u0430\u043d",
        ),
        ("\u8ba1\u5212: ok", "\u8ba1\u5212"),
        ("plan: rest", None),
        ("This is far too long: no heading", None),
        ("He said: rest", "he said"),
        ("12:30 lunch", None),
        ("https://example.org", None),
        ("Http://example.org", None),
        ("#Plan", None),
        ("Plan", None),
        ("- Plan: rest", None),
    ],
)
def test_what_a_heading_is(line: str, heading: str | None) -> None:
    assert [section.heading for section in sections(f"{line}\nmore")] == (
        [] if heading is None else [heading]
    )


def test_nothing_has_no_outline() -> None:
    assert score("outline", "plain words", "other words") == score("outline", "", "") == 1
    assert score("outline", "", "other words") == score("outline", " \n", "words") == 0


def test_sections_hold_what_stands_under_their_heading() -> None:
    read = {section.heading: section.content for section in sections(f"Dear all,\n{NOTE}")}
    assert read == {
        "problem": "fever and a rash for two days",
        "assessment": "measles is likely, the lungs are clear",
        "plan": "paracetamol 500 mg, rest, isolation for four days",
    }


@pytest.mark.parametrize(
    ("answer", "follows"),
    [
        (NOTE, 1),
        (WRONG_FACTS, 1),
        ("## Problem\na\n## Assessment\nb\n**PLAN:** c", 1),
        ("Assessment: b\nProblem: a\nPlan: c", 0),
        ("Problem: a\nAssessment: b", 0),
        ("Problem: a\nAssessment: b\nPlan:", 0),
        ("Problem: a\nAssessment: b\nPlan: c\nPlan: c", 0),
        ("Problem: a\nAssessment: b\nPlan: c\nOutlook: d", 0),
        ("fever, measles, rest", 0),
        ("", 0),
    ],
)
def test_outline(answer: str, follows: int) -> None:
    assert score("outline", answer, NOTE) == follows


THOUGHT = "<think>2 + 2 is 4</think>"
ANSWER = "<answer>4</answer>"


@pytest.mark.parametrize(
    ("answer", "has_form"),
    [
        (THOUGHT + ANSWER, True),
        (f"\n{THOUGHT}\n\n{ANSWER}\n", True),
        ("<think>\na\nb\n</think><answer>c < d</answer>", True),
        (THOUGHT, False),
        (ANSWER, False),
        (ANSWER + THOUGHT, False),
        (THOUGHT + "So: " + ANSWER, False),
        (THOUGHT + ANSWER + "!", False),
        (THOUGHT + THOUGHT + ANSWER, False),
        (THOUGHT + ANSWER + ANSWER, False),
        (f"<think>{ANSWER}</think>", False),
        (f"<think>{ANSWER}</think>{ANSWER}", False),
        ("<think> </think>" + ANSWER, False),
        (THOUGHT + "<answer>\n</answer>", False),
        ("<THINK>a</THINK><ANSWER>b</ANSWER>", False),
        ("<think>" * 50_000 + " " * 50_000 + "</answer>", False),
        ("<think></think><answer>" + " " * 100_000, False),
    ],
)
def test_tags(answer: str, has_form: bool) -> None:
    began = time.monotonic()
    assert score("tags", answer, "4") == has_form
    assert time.monotonic() - began < 5


def test_content_must_matter() -> None:
    """The right headings with the wrong facts: the form is right, the rest scores low."""
    assert score("outline", WRONG_FACTS, NOTE) == 1
    assert score("section_f1", WRONG_FACTS, NOTE) < 0.15
    assert score("section_f1", NOTE, NOTE) == 1
    answers = [WRONG_FACTS, NOTE]
    right = tasks.scorer("content").scores(answers, answers, OPTIONS)
    wrong = tasks.scorer("content").scores(answers[::-1], answers, OPTIONS)
    assert (right > 0.7).all() and (wrong < -0.7).all()


def test_section_f1_counts_what_is_missing() -> None:
    two_of_three = NOTE.split("Plan")[0]
    assert score("section_f1", two_of_three, NOTE) == pytest.approx(2 / 3)
    assert score("section_f1", f"{NOTE}Plan: x", NOTE) == pytest.approx(2 / 3)  # which one holds?
    shuffled = "Plan: c\nProblem: a1"
    assert score("section_f1", shuffled, "Problem: a1\nPlan: c") == 1
    moved = "Problem: rest\nPlan: fever"
    assert score("section_f1", moved, "Problem: fever\nPlan: rest") == 0
    assert score("section_f1", "take two tablets", "take one tablet") == pytest.approx(1 / 3)


@pytest.mark.parametrize("count", [2, 3, 63, 64, 65, 300])
def test_every_reference_stands_against_equally_many_answers(count: int) -> None:
    others = other_references(count, seed=0)
    assert others.shape == (count, min(count - 1, MAX_OTHERS))
    assert all(len(set(row)) == len(row) and i not in row for i, row in enumerate(others.tolist()))
    assert set(Counter(others.ravel().tolist()).values()) == {others.shape[1]}
    assert (others == other_references(count, seed=0)).all()
    if count > MAX_OTHERS + 1:
        assert (others != other_references(count, seed=1)).any()


@pytest.mark.parametrize("count", [5, 100])
def test_one_answer_for_everything_has_no_content(count: int) -> None:
    references = [f"{NOTE} case {n} {n % 7}" for n in range(count)]
    values = tasks.scorer("content").scores([NOTE] * count, references, OPTIONS)
    assert abs(values.mean()) < 1e-12
    own = tasks.scorer("content").scores(references, references, OPTIONS)
    assert own.mean() > 0


def test_content_needs_another_reference_and_is_cheap() -> None:
    with pytest.raises(DataError, match="it needs 2 at least"):
        score("content", "a", "a")
    texts = [f"{NOTE} case {n}" for n in range(1000)]
    started = time.monotonic()
    tasks.scorer("content").scores(texts, texts, OPTIONS)
    assert time.monotonic() - started < 15


# What is worked on in a child process or with a time limit; code has a room of its own.
@pytest.mark.parametrize("name", ["json_schema", "math", "regex"])
def test_between_two_answers_a_scorer_may_be_stopped(name: str) -> None:
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise KeyError("enough")

    options = dataclasses.replace(OPTIONS, stop_if_asked=stop)
    assert options == OPTIONS and options.identity() == OPTIONS.identity()
    answers = [f'{{"dose": "{n} mg"}}' for n in range(5)]
    with pytest.raises(KeyError, match="enough"):
        tasks.scorer(name).scores(answers, answers, options)
    assert asked == 3
    assert tasks.scorer(name).scores(answers, answers, OPTIONS).shape == (5,)
