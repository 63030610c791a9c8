"""Small sums as chats, some with the reasoning inside `<think>` and the result inside `<answer>`.

Deliberately few and easy: the base does small sums now and then, so that later reinforcement
learning has something to improve. One question in 32 (chosen by its numbers) is never trained.
"""

from __future__ import annotations

import random
import re
import zlib

from lorakit.builtin.document import Document, chat

_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Farid", "Grace", "Hugo", "Ivy", "Jonas")
_THINGS = ("apples", "books", "coins", "cards", "pencils", "tablets", "bandages", "eggs", "cups")
_TASKS = ("What is {}?", "{} = ?", "Calculate {}.", "How much is {}?", "Work out {}.", "{}")
_THINK_SYSTEM = (
    "Think inside <think> and </think>, then give the result inside <answer> and </answer>.",
    "Reason between <think> and </think>. Put only the answer between <answer> and </answer>.",
)


def is_held_out(left: int, right: int, sign: str) -> bool:
    """Whether a question with these numbers is kept for the held-out part."""
    return zlib.crc32(f"{left}{sign}{right}".encode()) % 32 == 0


def arithmetic(rng: random.Random, *, held_out: bool = False) -> Document:
    """One question with its answer: 1 to 3 digits, plus and minus, small products."""
    while True:
        left, right, sign, result = _numbers(rng)
        if is_held_out(left, right, sign) == held_out:
            break
    style = rng.random()
    if style < 0.2:
        return _story(rng, left, right, sign, result)
    if style < 0.3:
        return Document(text=_lines(rng, held_out=held_out))
    question = rng.choice(_TASKS).format(f"{left} {sign} {right}")
    if style < 0.65:
        answer = f"<think>{steps(left, right, sign)}</think><answer>{result}</answer>"
        return chat(question, answer, system=rng.choice((*_THINK_SYSTEM, "", "")))
    return chat(question, rng.choice((f"{result}", f"{left} {sign} {right} = {result}")))


def small_sums(rng: random.Random, *, held_out: bool = False) -> Document:
    """`arithmetic` with no number above 20."""
    while True:
        document = arithmetic(rng, held_out=held_out)
        if all(int(number) <= 20 for number in re.findall(r"\d+", document.content())):
            return document


def steps(left: int, right: int, sign: str) -> str:
    """The way to the result in words: by hundreds, tens and ones."""
    if sign == "*":
        if left < 10 or right < 10:
            return f"{left} times {right} is {left * right}."
        tens, ones = left - left % 10, left % 10
        return (
            f"{tens} * {right} = {tens * right}. {ones} * {right} = {ones * right}. "
            f"{tens * right} + {ones * right} = {left * right}."
        )
    total, parts = left, []
    for unit in (100, 10, 1):
        share = right // unit % 10 * unit
        if share:
            after = total + share if sign == "+" else total - share
            parts.append(f"{total} {sign} {share} = {after}.")
            total = after
    return " ".join(parts) or f"{left} {sign} 0 = {left}."


def _numbers(rng: random.Random) -> tuple[int, int, str, int]:
    digits = rng.choices((1, 2, 3), (4, 4, 2))[0]
    left, right = rng.randrange(10**digits), rng.randrange(10 ** rng.randint(1, digits))
    sign = rng.choices(("+", "-", "*"), (5, 4, 2))[0]
    if sign == "*":
        left, right = rng.randint(2, 12), rng.randint(2, 12)
        return left, right, sign, left * right
    if sign == "-" and left < right:
        left, right = right, left
    return left, right, sign, left + right if sign == "+" else left - right


def _story(rng: random.Random, left: int, right: int, sign: str, result: int) -> Document:
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    if sign == "+":
        story = f"{name} has {left} {things} and gets {right} more."
        question = f"How many {things} does {name} have now?"
    elif sign == "-":
        story = f"{name} has {left} {things} and gives away {right}."
        question = f"How many {things} are left?"
    else:
        story = f"{name} has {left} boxes with {right} {things} in each."
        question = f"How many {things} are there in all?"
    equation = f"{left} {sign} {right} = {result}"
    if rng.random() < 0.4:
        answer = f"<think>{equation}</think><answer>{result}</answer>"
    else:
        answer = rng.choice((f"{equation}. The answer is {result}.", f"{result} {things}."))
    return chat(f"{story} {question}", answer)


def _lines(rng: random.Random, *, held_out: bool) -> str:
    """A column of equations, or counting."""
    if rng.random() < 0.3 and not held_out:
        start, step = rng.randrange(100), rng.choice((1, 1, 2, 5, 10))
        return ", ".join(str(start + step * index) for index in range(12))
    lines: list[str] = []
    while len(lines) < 6:
        left, right, sign, result = _numbers(rng)
        if is_held_out(left, right, sign) == held_out:
            lines.append(f"{left} {sign} {right} = {result}")
    return "\n".join(lines)
