"""`multiple_choice`: a question, its options, the right one, and why (optional).

    {"question": ..., "opa": ..., "opb": ..., "opc": ..., "opd": ..., "cop": 0, "exp": ...}
    medmcqa {"question": ..., "options": [...] or {"A": ...}, "answer": "C" or 2 or the option's
    text} {"question": ..., "choices": [...] or {"label": [...], "text": [...]}, "answerKey": "C"}
    ARC, MMLU

The user turn is the question and the lettered options; the answer is `B. text`, followed by the
explanation after a blank line where there is one. A `context` stands before the question, after a
blank line. Indices count from 0 (medmcqa as published on the
hub; its original files count `cop` from 1 and must be converted).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from lorakit.data.conversation import Choices, Conversation
from lorakit.data.fields import optional_text, text_of
from lorakit.errors import DataError

NAME = "multiple_choice"
OPTION_COLUMNS = ("opa", "opb", "opc", "opd", "ope")
ANSWER_COLUMNS = ("cop", "answer_idx", "answerKey", "answer", "label")
COLUMNS = (
    *("question", "context", "options", "choices"),
    *OPTION_COLUMNS,
    *ANSWER_COLUMNS,
    *("exp", "explanation"),
)
PRIORITY = 3


def matches(columns: set[str], row: Mapping[str, Any]) -> bool:
    options = {"options", "choices"} & columns or {"opa", "opb"} <= columns
    return "question" in columns and bool(options) and bool(columns & set(ANSWER_COLUMNS))


def convert(values: Mapping[str, Any], where: str) -> Conversation:
    options = _options(values, where)
    letter = _right_letter(values, options, where)
    question = text_of(values, "question", where)
    context = optional_text(values, "context", where)
    if context.strip():
        question = f"{context}\n\n{question}"
    prompt = "\n".join([question, *(f"{key}. {text}" for key, text in options.items())])
    answer = f"{letter}. {options[letter]}"
    reason = optional_text(values, "exp", where) or optional_text(values, "explanation", where)
    said = Conversation.of(
        ("user", prompt), ("assistant", f"{answer}\n\n{reason}" if reason.strip() else answer)
    )
    return replace(said, choices=Choices(question, options, letter))


def _options(values: Mapping[str, Any], where: str) -> dict[str, str]:
    """{letter: text} of at least two options, in order."""
    given = values.get("options", values.get("choices"))
    if isinstance(given, Mapping) and set(given) == {"label", "text"}:
        given = _labelled(given["label"], given["text"], where)
    if given is None:
        given = [values[column] for column in OPTION_COLUMNS if values.get(column) is not None]
    if isinstance(given, Mapping):
        options = {str(key): text for key, text in given.items() if text is not None}
    elif isinstance(given, list | tuple) and len(given) <= len(ascii_uppercase):
        options = dict(zip(ascii_uppercase, given, strict=False))
    else:
        options = {}
    if len(options) < 2:
        raise DataError(
            f"{where}: {len(options)} options; a row needs at least two, as a list or an object in "
            "`options`, or in the columns opa, opb, ..."
        )
    for key, text in options.items():
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: option {key} is empty or no text. Fill it.")
    return options


def _right_letter(values: Mapping[str, Any], options: Mapping[str, str], where: str) -> str:
    column = next((name for name in ANSWER_COLUMNS if values.get(name) is not None), None)
    if column is None:
        raise DataError(f"{where}: no answer in any of the columns {', '.join(ANSWER_COLUMNS)}.")
    answer = values[column]
    letters = list(options)
    if isinstance(answer, str):
        named = _named_by(answer.strip(), options, f"{where}: the answer in column {column!r}")
        if named is not None:
            return named
        said = answer.strip()
        answer = int(said) if said.isascii() and said.isdigit() and len(said) < 3 else None
    if isinstance(answer, int) and not isinstance(answer, bool):
        if str(answer) in options:
            return str(answer)
        if 0 <= answer < len(letters):
            return letters[answer]
    raise DataError(
        f"{where}: the answer {values[column]!r} in column {column!r} is none of the options "
        f"{', '.join(letters)} (by letter, text, or index from 0). Fix it."
    )


def _labelled(labels: Any, texts: Any, where: str) -> dict[str, Any]:
    """{label: text} of ARC's two lists."""
    lists = isinstance(labels, list | tuple) and isinstance(texts, list | tuple)
    if not lists or len(labels) != len(texts) or len(set(map(str, labels))) != len(labels):
        raise DataError(
            f"{where}: the choices' label and text must be lists of one length, every label once. "
            "Fix the row."
        )
    return dict(zip(map(str, labels), texts, strict=True))


def _named_by(said: str, options: Mapping[str, str], what: str) -> str | None:
    """The option of this letter or text; None if there is none."""
    letter = next((key for key in (said, said.upper()) if key in options), None)
    same = [key for key, text in options.items() if text.strip() == said]
    if letter is not None and same and letter not in same:
        raise DataError(
            f"{what}, {said!r}, is the letter of one option and the text of another "
            f"({', '.join(same)}). Write the options as an object with other letters."
        )
    if letter is not None:
        return letter
    return same[0] if len(same) == 1 else None
