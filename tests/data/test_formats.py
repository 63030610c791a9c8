"""Row formats: one example and one fault of each, detection, mapping; every file in the folder."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from lorakit.data.conversation import Choices, Conversation, PlainText
from lorakit.data.detect import converter_for, format_modules
from lorakit.data.render import Renderer
from lorakit.data.sources import Row
from lorakit.errors import DataError
from tests import tiny

QA = Conversation.of(("user", "Q?"), ("assistant", "A."))
ASKED = replace(Conversation.of(("user", "Q?"), ("assistant", "")), weights=(0.0, 1.0))


def chosen(question: str, letters: str, right: str, asked: str, answer: str) -> Conversation:
    """A multiple-choice row: one, two, ... under these letters."""
    options = dict(zip(letters, ("one", "two", "three", "four"), strict=False))
    said = Conversation.of(("user", asked), ("assistant", answer))
    return replace(said, choices=Choices(question, options, right))


LETTERS = chosen(
    "Which?", "ABCD", "C", "Which?\nA. one\nB. two\nC. three\nD. four", "C. three\n\nBecause."
)

# format -> [(row, what it means)]; a new file in formats/ must be added here.
EXAMPLES: dict[str, list[tuple[dict, Conversation | PlainText]]] = {
    "messages": [
        ({"messages": [dict(m) for m in QA.messages]}, QA),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Q?"}], "name": None},
                    {"role": "assistant", "content": "A.", "tool_calls": None, "train": False},
                ],
                "id": 7,
                "text": "Q? A.",
            },
            Conversation(
                (
                    {"role": "user", "content": [{"type": "text", "text": "Q?"}]},
                    {"role": "assistant", "content": "A."},
                ),
                (1.0, 0.0),
            ),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "Q?"},
                    {
                        "role": "assistant",
                        "content": None,
                        "thinking": "hm",
                        "weight": 0.5,
                        "tool_calls": [
                            {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}
                        ],
                    },
                    {"role": "tool", "content": "7", "tool_call_id": "1"},
                ],
                "tools": '[{"type": "function", "function": {"name": "f", "parameters": null}}]',
            },
            Conversation(
                (
                    {"role": "user", "content": "Q?"},
                    {
                        "role": "assistant",
                        "reasoning_content": "hm",
                        "tool_calls": [
                            {
                                "type": "function",
                                "function": {"name": "f", "arguments": {"a": 1}},
                                "id": "1",
                            }
                        ],
                    },
                    {"role": "tool", "content": "7", "tool_call_id": "1"},
                ),
                (1.0, 0.5, 1.0),
                ({"type": "function", "function": {"name": "f"}},),
            ),
        ),
    ],
    "prompt_completion": [
        ({"prompt": "Q?", "completion": "A."}, QA),
        (
            {"prompt": "Q?", "completion": "A.", "system": "S"},
            Conversation.of(("system", "S"), *(("user", "Q?"), ("assistant", "A."))),
        ),
        (
            {"prompt": [{"role": "user", "content": "Q?"}], "completion": [dict(QA.messages[1])]},
            Conversation(QA.messages, (0.0, 1.0)),
        ),
    ],
    "alpaca": [
        ({"instruction": "Q?", "input": "", "output": "A."}, QA),
        ({"instruction": "Q?", "output": "A.", "text": "all of it"}, QA),
        (
            {"instruction": "Q?", "output": "A.", "system": "S", "history": [["hi", "hello"]]},
            Conversation.of(
                *(("system", "S"), ("user", "hi"), ("assistant", "hello")),
                *(("user", "Q?"), ("assistant", "A.")),
            ),
        ),
        (
            {"instruction": "Q?", "input": "this", "output": "A."},
            Conversation.of(("user", "Q?\n\nthis"), ("assistant", "A.")),
        ),
        ({"instruction": "Q?", "instances": [{"input": "", "output": "A."}], "id": "x"}, QA),
    ],
    "sharegpt": [
        ({"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]}, QA),
        ({"conversations": [dict(m) for m in QA.messages]}, QA),
        (
            {
                "system": "S",
                "conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}],
            },
            Conversation.of(("system", "S"), ("user", "Q?"), ("assistant", "A.")),
        ),
    ],
    "prompt_only": [
        ({"prompt": "Q?", "level": 3}, ASKED),
        ({"prompt": [{"role": "user", "content": "Q?"}], "solution": "A."}, ASKED),
        ({"prompt": "Q?", "answer": "A."}, Conversation(QA.messages, (0.0, 1.0))),
        ({"prompt": "Q?", "answer": ["x"], "system": " "}, ASKED),
        (
            {"prompt": "Q?", "answer": 7, "system": "S"},
            replace(
                Conversation.of(("system", "S"), ("user", "Q?"), ("assistant", "7")),
                weights=(0.0, 0.0, 1.0),
            ),
        ),
    ],
    "text": [({"text": "Once upon a time."}, PlainText("Once upon a time."))],
    "question_answer": [
        ({"question": "Q?", "answer": "A.", "source": "x", "focus": "y"}, QA),
        ({"question": "Q?", "answer": "A.", "final": "7"}, QA),
        (
            {"question": "Q?", "context": "C.", "answer": "A."},
            Conversation.of(("user", "C.\n\nQ?"), ("assistant", "A.")),
        ),
    ],
    "multiple_choice": [
        (
            {
                "question": "Which?",
                "opa": "one",
                "opb": "two",
                "opc": "three",
                "opd": "four",
                "cop": 2,
                "exp": "Because.",
                "id": "m",
            },
            LETTERS,
        ),
        *(
            (
                {"question": "Which?", "options": options, key: answer, "explanation": "Because."},
                LETTERS,
            )
            for options in (
                ["one", "two", "three", "four"],
                {"A": "one", "B": "two", "C": "three", "D": "four"},
            )
            for key, answer in (("answer", "C"), ("answer", "c"), ("answer", "three"), ("cop", 2))
        ),
        (
            {
                "question": "Which?",
                "choices": {"label": ["A", "B"], "text": ["one", "two"]},
                "answerKey": "B",
            },
            chosen("Which?", "AB", "B", "Which?\nA. one\nB. two", "B. two"),
        ),
        (
            {"context": "C.", "question": "Which?", "options": ["one", "two"], "answer": "B"},
            chosen("C.\n\nWhich?", "AB", "B", "C.\n\nWhich?\nA. one\nB. two", "B. two"),
        ),
        *(
            (
                {"question": "Which?", "options": {"1": "one", "2": "two"}, "answer": answer},
                chosen("Which?", "12", "1", "Which?\n1. one\n2. two", "1. one"),
            )
            for answer in (1, "1")
        ),
    ],
}

FAULTY: list[tuple[str, dict, str]] = [
    ("messages", {"messages": []}, "is no list of messages"),
    (
        "messages",
        {"messages": [{"role": "bot", "content": "x"}]},
        r"messages\[0\]: unknown role 'bot'",
    ),
    ("messages", {"messages": [{"role": "user"}]}, "needs content"),
    ("messages", {"messages": [{"role": "user", "content": 7}]}, "content is a number"),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "part 'image' is not text",
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " \n"}]},
        r"messages\[1\]: the assistant's content is empty",
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": "x", "train": True}]},
        "a user message cannot be trained alone",
    ),
    (
        "messages",
        {"messages": [{"role": "assistant", "content": "x", "train": True, "weight": 1}]},
        "both train and weight",
    ),
    (
        "messages",
        {"messages": [{"role": "assistant", "content": "x", "weight": float("nan")}]},
        "weight must be a number",
    ),
    (
        "messages",
        {"messages": [{"role": "assistant", "content": "x", "train": "yes"}]},
        "train must be true or false",
    ),
    (
        "messages",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
        "needs function.name",
    ),
    (
        "messages",
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": "{oops"}}],
                }
            ]
        },
        "arguments: broken JSON",
    ),
    ("messages", {"messages": [{"role": "user", "content": "\ud800"}]}, "half a surrogate pair"),
    ("messages", {"messages": [{"role": "user", "content": "a"}], "tools": "x"}, "broken JSON"),
    ("prompt_completion", {"prompt": "Q?", "completion": ""}, "column 'completion' is empty"),
    (
        "prompt_completion",
        {"prompt": "Q?", "completion": []},
        "prompt is a text and completion a list",
    ),
    ("prompt_only", {"prompt": " "}, "column 'prompt' is empty"),
    ("prompt_only", {"prompt": []}, "prompt: .* is no list of messages"),
    ("prompt_only", {"prompt": [{"role": "user", "content": "a"}], "system": "S"}, "system"),
    ("prompt_only", {"prompt": [dict(QA.messages[1])]}, "ends with the assistant's turn"),
    ("alpaca", {"instruction": "Q?", "output": None}, "column 'output' is empty"),
    ("alpaca", {"instruction": "Q?", "instances": []}, "holds 0 instances"),
    *(
        ("alpaca", {"instruction": "Q?", "output": "A.", "history": odd}, "history")
        for odd in ("x", [["a"]], [["a", 1]])
    ),
    (
        "prompt_completion",
        {"prompt": [{"role": "user", "content": "a"}], "completion": [], "system": "S"},
        "system",
    ),
    ("sharegpt", {"conversations": [{"from": "cat", "value": "x"}]}, "unknown speaker 'cat'"),
    ("sharegpt", {"conversations": "x"}, "holds a text"),
    ("text", {"text": "  "}, "column 'text' is empty"),
    ("text", {"text": ["x"]}, "holds a list, not text"),
    ("question_answer", {"question": "Q?", "answer": "\n"}, "column 'answer' is empty"),
    ("multiple_choice", {"question": "Q?", "options": ["x"], "answer": 0}, "1 options"),
    ("multiple_choice", {"question": "Q?", "options": ["x", ""], "answer": 0}, "option B is empty"),
    (
        "multiple_choice",
        {"question": "Q?", "options": ["x", "y"], "answer": 2},
        "none of the options",
    ),
    (
        "multiple_choice",
        {"question": "Q?", "options": ["x", "y"], "answer": -1},
        "none of the options",
    ),
    ("multiple_choice", {"question": "Q?", "options": ["x", "y"], "answer": True}, "none of the"),
    *(
        ("multiple_choice", {"question": "Q?", "options": ["x", "y"], "answer": odd}, "none of the")
        for odd in ("--1", "\u00b2", "9" * 5000, ["A"], 0.5)
    ),
    (
        "multiple_choice",
        {"question": "Q?", "options": ["B", "A", "C"], "answer": "A"},
        "the letter of one option and the text of another",
    ),
    *(
        (
            "multiple_choice",
            {"question": "Q?", "choices": {"label": labels, "text": ["a", "b"]}, "answerKey": "A"},
            "must be lists of one length",
        )
        for labels in (None, ["A", "B", "C"], ["A", "A"])
    ),
    *(
        ("messages", {"messages": [{"role": "user", "content": "x"}], "tools": tools}, "tools")
        for tools in ([{"function": "x"}], [{"function": {"name": 3}}], [{"name": ["x"]}])
    ),
    ("messages", {"messages": [{"role": ["user"], "content": "x"}]}, "unknown role"),
    *(
        (
            "messages",
            {"messages": [{"role": "assistant", "content": "x", "weight": weight}]},
            "weight must be a number from 0 to 1000",
        )
        for weight in (10**400, 1e300, 1001, -1)
    ),
    *(
        (
            "messages",
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": {"d": value}}}],
                    }
                ]
            },
            r"tool_calls\[0\].arguments: .* is no JSON",
        )
        for value in (date(2024, 1, 1), b"x", float("nan"), {1: 2})
    ),
    ("sharegpt", {"conversations": [{"from": ["human"], "value": "x"}]}, "unknown speaker"),
]


def test_every_format_file_has_examples_and_a_fault() -> None:
    assert set(EXAMPLES) == set(format_modules())
    assert {name for name, _, _ in FAULTY} == set(format_modules())


@pytest.mark.parametrize("name", EXAMPLES)
def test_rows_are_recognised_and_converted(name: str) -> None:
    for values, expected in EXAMPLES[name]:
        row = Row(values, "f.jsonl:1")
        found = converter_for(row)
        assert found.name == name, values
        assert found(row) == expected
        assert converter_for(row, format=name)(row) == expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_format_reads_can_be_rendered(name: str) -> None:
    renderer = Renderer(tiny.tokenizer())
    for _, meaning in EXAMPLES[name]:
        if isinstance(meaning, PlainText) or not meaning.tools:
            assert renderer.render(meaning).num_tokens > 0


@pytest.mark.parametrize(("name", "values", "message"), FAULTY)
def test_faults_name_the_row_and_the_column(name: str, values: dict, message: str) -> None:
    row = Row(values, "f.jsonl:17")
    with pytest.raises(DataError, match=message) as caught:
        converter_for(row, format=name)(row)
    assert "f.jsonl:17" in str(caught.value)


def test_columns_are_mapped() -> None:
    row = Row({"frage": "Q?", "antwort": "A.", "answer": "not this"}, "f:1")
    columns = {"question": "frage", "answer": "antwort"}
    assert converter_for(row, columns=columns)(row) == QA


def test_rows_that_say_more_than_a_question_are_no_prompt_alone() -> None:
    """TRL's other rows with a `prompt`."""
    pair = {"prompt": "Q?", "chosen": "A.", "rejected": "B."}
    with pytest.raises(DataError, match="no row format reads the columns"):
        converter_for(Row(pair, "f:1"))
    for more, name in (("completion", "prompt_completion"), ("text", "text")):
        assert converter_for(Row({"prompt": "Q?", more: "A."}, "f:1")).name == name


def test_a_mapping_that_cannot_take_effect_is_refused() -> None:
    row = Row({"question": "Q?", "answer": "A."}, "f:1")
    with pytest.raises(DataError, match="no column 'frage'"):
        converter_for(row, columns={"question": "frage"})
    with pytest.raises(
        DataError, match=r"columns maps \['topic'\], which the format 'question_ans"
    ):
        converter_for(
            row, columns={"topic": "answer", "question": "question"}, format="question_answer"
        )


def test_every_wrong_column_is_named_with_the_nearest() -> None:
    row = Row({"Frage": "Q?", "Antwort": "A.", "Thema": "T"}, "f:1")
    with pytest.raises(DataError) as caught:
        converter_for(row, columns={"prompt": "frag", "completion": "antwort", "system": "xyz"})
    told = str(caught.value)
    assert "no column 'frag' (did you mean 'Frage'?)" in told
    assert "no column 'antwort' (did you mean 'Antwort'?)" in told
    assert "no column 'xyz';" in told


@pytest.mark.parametrize(("value", "state"), [(" ", "is empty"), (3, "holds a number")])
def test_a_fault_in_a_mapped_column_names_the_column_of_the_file(value: object, state: str) -> None:
    row = Row({"Frage": "Q?", "Antwort": value}, "f:1")
    convert = converter_for(row, columns={"prompt": "Frage", "completion": "Antwort"})
    with pytest.raises(DataError, match=f"f:1: column 'Antwort' {state}"):
        convert(row)


def test_two_equal_matches_are_refused_by_name() -> None:
    both = Row({"messages": [], "conversations": []}, "f:1")
    with pytest.raises(DataError, match="fit the formats messages and sharegpt"):
        converter_for(both)


def test_no_match_lists_what_is_known() -> None:
    with pytest.raises(DataError, match="no row format reads the columns") as caught:
        converter_for(Row({"foo": 1}, "f:1"))
    assert all(name in str(caught.value) for name in EXAMPLES)
    with pytest.raises(DataError, match="unknown format 'chatml'; possible are auto, alpaca"):
        converter_for(Row({"foo": 1}, "f:1"), format="chatml")


def test_a_system_message_is_added_where_there_is_none() -> None:
    row = Row({"question": "Q?", "answer": "A."}, "f:1")
    added = converter_for(row, system="S")(row)
    assert isinstance(added, Conversation)
    assert [m["role"] for m in added.messages] == ["system", "user", "assistant"]
    own = Row({"messages": [{"role": "system", "content": "mine"}, *QA.messages]}, "f:1")
    kept = converter_for(own, system="S")(own)
    assert isinstance(kept, Conversation) and kept.messages[0]["content"] == "mine"
    with pytest.raises(DataError, match="plain text has no system message"):
        text = Row({"text": "x"}, "f:1")
        converter_for(text, system="S")(text)


def test_a_later_row_of_a_better_format_is_named() -> None:
    first = Row({"question": "Q?", "answer": "A."}, "f:1")
    later = Row({"question": "Which?", "options": ["x", "y"], "answer": "B"}, "f:2")
    with pytest.raises(DataError, match="f:2: this row fits the format 'multiple_choice'"):
        converter_for(first)(later)
    assert converter_for(first, format="question_answer")(later).messages[1]["content"] == "B"
