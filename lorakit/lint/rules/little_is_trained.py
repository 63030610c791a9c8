"""A small part of the tokens is trained."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "little-is-trained"
SEVERITIES = ("note",)
TITLE = "A small part of the tokens is trained"
REASON = (
    "Where under one token in fifty is trained, nearly all of the time goes into reading prompts."
)
SOURCE = "practice"
EXAMPLE = "long documents, answers of one word"
MEND = "Shorten the prompts, or ask several questions of each document (trained: assistant)."

LITTLE = 0.02


def find(facts: Facts) -> Iterator[Finding]:
    if facts.is_policy:  # of answers that are trained
        return
    examples = facts.sets.train.examples
    trained, tokens = int(examples.trained_lengths.sum()), int(examples.lengths.sum())
    if trained < LITTLE * tokens:
        message = (
            f"train: {trained / tokens:.1%} of the tokens are trained, the rest is read only: "
            "shorten "
            "the prompts, or ask more of each"
        )
        yield Finding(ID, "note", message, "data.train")
