"""Reward functions as users write them, good and bad, for test_reward_functions.py."""

import asyncio
import functools
import os
import time

import numpy as np

NOT_A_FUNCTION = 3


def length(completions):
    return [float(len(text)) for text in completions]


def tokens(completion_ids):
    return [sum(ids) for ids in completion_ids]


def columns(prompts, completions, references, level, missing="default", **others):
    assert len(prompts) == len(references) == len(level) == len(completions)
    assert set(others) == {"text", "completion_ids"}
    return [
        len(prompt) + 10 * number + 100 * (reference == "right") + (missing == "default")
        for prompt, number, reference in zip(prompts, level, references, strict=True)
    ]


def optioned(completions, factor, **_):
    return [factor * len(text) for text in completions]


def numpy_numbers(completions, **_):
    return np.array([np.float32(len(text)) for text in completions])


def opinions(completions, **_):
    return [None if text == "b" else True for text in completions]


def raises(completions, **_):
    if "bad" in completions:
        raise ValueError(f"cannot read {completions[0]!r}")
    return [1.0] * len(completions)


def hangs(completions, **_):
    if "bad" in completions:
        time.sleep(600)
    return [1.0] * len(completions)


def dies(completions, **_):
    if "bad" in completions:
        os._exit(7)
    return [1.0] * len(completions)


def exits(completions, **_):
    if "bad" in completions:
        raise SystemExit(3)
    return [1.0] * len(completions)


def prints_without_end(completions, **_):
    while "bad" in completions:
        print("x" * 10_000)
    return [1.0] * len(completions)


def gives_nan(completions, **_):
    return [float("nan") if text == "bad" else 1.0 for text in completions]


def gives_infinity(completions, **_):
    return [float("inf") if text == "bad" else 1.0 for text in completions]


def gives_text(completions, **_):
    return ["1.0" if text == "bad" else 1.0 for text in completions]


def gives_too_few(completions, **_):
    return [1.0 for text in completions if text != "bad"]


def gives_a_number(completions, **_):
    return 1.0 if "bad" in completions else [1.0] * len(completions)


def gives_nothing(completions, **_):
    return None if "bad" in completions else [1.0] * len(completions)


def fails_together(completions, **_):
    if len(completions) > 1:
        raise RuntimeError("one at a time")
    return [1.0]


def by_place(completions, /):
    return [1.0]


async def waits(completions, level, *, scale=1.0, **_):
    """One that asks somewhere else, as TRL allows."""
    await asyncio.sleep(0)
    return [scale * len(text) + number for text, number in zip(completions, level, strict=True)]


def many_kinds(prompts, /, completions, level=3, *texts, needed, given=4):
    return [1.0] * len(completions)


@functools.lru_cache
def decorated(completions):
    return [1.0]


def defined_twice(first):
    return [1.0]


def defined_twice(second):  # noqa: F811  (the later one counts)
    return [1.0]


if NOT_A_FUNCTION:

    def conditional(completions):
        return [1.0]


bound = length
