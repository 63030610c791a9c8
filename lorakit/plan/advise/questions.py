"""What is asked before anybody has data, and answers checked against it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lorakit.errors import InputError

Need = Literal["behaviour", "knowledge", "both"]
Prompt = Literal["works", "nearly", "fails", "untried"]
Facts = Literal["stable", "months", "days", "hours"]
Pressure = Literal["none", "latency", "cost"]
Hardware = Literal["cpu", "8gb", "24gb", "80gb"]
Language = Literal["english", "other"]
Measure = Literal["form", "reference", "judgement", "unknown"]

LARGEST_COUNT = 10**12


@dataclass(frozen=True)
class Answers:
    """One value per question, under the question's name."""

    need: Need
    prompt: Prompt
    facts: Facts
    cite: bool
    examples: int  # that exist, or will be written and checked
    calls: int  # a month
    pressure: Pressure
    private: bool
    hardware: Hardware
    language: Language
    measure: Measure

    @property
    def looks_facts_up(self) -> bool:
        """Whether an answer rests on something that can be looked up."""
        return self.need != "behaviour" or self.cite

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: of the answer, and of the flag.
        text: the question as people read it.
        why: what the answer decides.
        choices: {answer: what it means}; empty for a number and for yes or no.
        is_number: whether the answer is a count; yes or no if neither that nor choices.
    """

    name: str
    text: str
    why: str
    choices: Mapping[str, str]
    is_number: bool = False

    @property
    def is_yes_or_no(self) -> bool:
        return not self.choices and not self.is_number

    @property
    def possible(self) -> str:
        """The answers it takes, in words."""
        if self.choices:
            return ", ".join(self.choices)
        return "a whole number, 0 or more" if self.is_number else "yes, no"

    def read(self, given: object) -> str | int | bool:
        """The answer that `given` is: a value of a file, or text that somebody typed.

        Raises:
            InputError: it is none.
        """
        text = str(given).strip().lower()
        if self.is_number:
            return self._number(given, text)
        if self.is_yes_or_no:
            if text in ("yes", "y", "true"):
                return True
            if text in ("no", "n", "false"):
                return False
        elif text in self.choices:
            return text
        elif text in (numbered := dict(zip(map(str, range(1, 10)), self.choices, strict=False))):
            return numbered[text]
        raise self._refusal(given, text)

    def _number(self, given: object, text: str) -> int:
        digits = text.replace(",", "").replace("_", "")
        # isascii: other scripts' digits pass isdigit, and int() refuses some of them.
        plain = digits.isascii() and digits.isdigit() and len(digits) <= 13
        if not plain or int(digits) > LARGEST_COUNT:
            raise self._refusal(given, text)
        return int(digits)

    def _refusal(self, given: object, text: str) -> InputError:
        near = difflib.get_close_matches(text, self.choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        if near and text[:1].isdigit():  # 12gb is as near to 24gb as to 8gb, and means the latter
            hint = (
                f" That is: {'; '.join(f'{name}, {what}' for name, what in self.choices.items())}."
            )
        shown = repr(given) if len(repr(given)) < 60 else f"{repr(given)[:60]}..."
        return InputError(f"{self.name}: {shown} is no answer; possible: {self.possible}.{hint}")


QUESTIONS = (
    Question(
        "need",
        "What is missing in the model's answers?",
        "Fine-tuning teaches how to respond, retrieval supplies what to say.",
        {
            "behaviour": "how it answers: format, style, register, a fixed skill",
            "knowledge": "what it answers: facts it does not have",
            "both": "facts it does not have, in a form it does not keep",
        },
    ),
    Question(
        "prompt",
        "How far does a prompt get, with a few examples in it?",
        "A prompt that does it costs nothing to train and nothing to maintain.",
        {
            "works": "the answers are good enough as they are",
            "nearly": "most answers are good, some miss the form or the tone",
            "fails": "no wording holds what is asked for",
            "untried": "nobody has tried in earnest",
        },
    ),
    Question(
        "cite",
        "Must answers name their source?",
        "A source can be named only by a model that has it in front of it.",
        {},
    ),
    Question(
        "facts",
        "How often do those facts change?",
        "What weights hold stays as it was on the day they were trained.",
        {
            "stable": "hardly ever, or over years",
            "months": "over weeks or months",
            "days": "from day to day",
            "hours": "several times a day",
        },
    ),
    Question(
        "examples",
        "How many good examples (question and the answer you want) do you have, or can you make?",
        "Fewer than about 200 teach no reliable behaviour.",
        {},
        is_number=True,
    ),
    Question(
        "calls",
        "How many calls a month will there be?",
        "Examples and training are paid once, a long prompt with every call.",
        {},
        is_number=True,
    ),
    Question(
        "pressure",
        "What hurts most in operation?",
        "Instructions and examples that are trained need not stand in the prompt.",
        {
            "none": "nothing in particular",
            "latency": "the time until an answer",
            "cost": "the price of a call",
        },
    ),
    Question(
        "private",
        "Must all data stay on your own machines?",
        "Then training and serving happen on them, with a model that fits them.",
        {},
    ),
    Question(
        "hardware",
        "What can you train on, your own or rented?",
        "It decides how large the base can be, and whether its weights are kept in 4 bits.",
        {
            "cpu": "no GPU",
            "8gb": "a GPU with about 8 to 16 GB",
            "24gb": "a GPU with about 24 to 48 GB",
            "80gb": "a GPU with 80 GB or more",
        },
    ),
    Question(
        "language",
        "In which language are the answers?",
        "A language that the base has read little of asks for more examples and a higher rank.",
        {"english": "English", "other": "another one, or several"},
    ),
    Question(
        "measure",
        "How will you tell a good answer from a bad one?",
        "What cannot be measured cannot be shown to be better.",
        {
            "form": "a rule tells: a schema, headings, a pattern",
            "reference": "against the answer an expert wrote",
            "judgement": "somebody reads and judges",
            "unknown": "not decided yet",
        },
    ),
)
BY_NAME = {question.name: question for question in QUESTIONS}


def is_asked(question: Question, known: Mapping[str, Any]) -> bool:
    """Whether a question matters after what is known; how facts change does not without facts."""
    return question.name != "facts" or known.get("need") != "behaviour" or bool(known.get("cite"))


def missing_questions(known: Mapping[str, Any]) -> list[Question]:
    """The questions still to be asked, in their order."""
    return [one for one in QUESTIONS if one.name not in known and is_asked(one, known)]


def read_answers(given: Mapping[Any, Any]) -> dict[str, Any]:
    """The answers of a file or of flags; not all questions need one.

    Raises:
        InputError: an unknown question or a value that is no answer; all of them at once.
    """
    known, faults = {}, []
    for name, value in given.items():
        if name not in BY_NAME:
            near = difflib.get_close_matches(str(name), BY_NAME, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            faults.append(
                f"{str(name)!r} is no question; possible: {', '.join(BY_NAME)}.{hint}",
            )
            continue
        try:
            known[name] = BY_NAME[name].read(value)
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return known


def whole_answers(known: Mapping[str, Any]) -> Answers:
    """All answers.

    Raises:
        InputError: questions that were not answered, each with its flag.
    """
    missing = missing_questions(known)
    if missing:
        lines = [f"  --{one.name} ({one.possible}): {one.text}" for one in missing]
        lines = [
            line.replace(f"--{one.name} (yes, no)", f"--{one.name} or --no-{one.name}")
            for line, one in zip(lines, missing, strict=True)
        ]
        raise InputError(
            "these questions have no answer, and there is no terminal to ask on:\n"
            + "\n".join(lines)
            + "\nGive the flags, or a file with --answers."
        )
    return Answers(**{"facts": "stable"} | dict(known))
