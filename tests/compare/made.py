"""Measurements as `measure` makes them, with chosen numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lorakit.compare.measure import Latency, Measured
from lorakit.compare.prompts import WAYS, Prompt, Prompts
from lorakit.compare.questions import AskedQuestion
from lorakit.generate import Completion

BY_NAME = {way.name: way for way in WAYS}


def measured(
    name: str,
    values: Mapping[str, np.ndarray],
    *,
    prompt: int = 100,
    answer: int = 10,
    seconds: float = 1.0,
) -> Measured:
    """One way; `seconds` of all its calls."""
    count = len(next(iter(values.values())))
    completion = Completion([5] * answer, np.zeros(answer, np.float32), "text", "stop")
    return Measured(
        BY_NAME[name],
        Prompts([Prompt([3] * prompt)] * count),
        [completion] * count,
        dict(values),
        np.full(count, prompt),
        np.full(count, answer),
        seconds,
        Latency(2, 0.1, 0.2, 0.05),
    )


def questions(weights: Sequence[float]) -> list[AskedQuestion]:
    """One for each weight: that of the only token of its right answer."""
    return [
        AskedQuestion(
            i,
            f"d:{i}",
            ({"role": "user", "content": f"q{i}"},),
            [1, 2],
            np.array([7], np.int32),
            np.array([weight], np.float32),
            "text",
        )
        for i, weight in enumerate(weights)
    ]
