"""Answers that belong to the prompt of the next or the previous row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.neighbours import FAR, fits
from lorakit.lint.told import Hits

ID = "answers-one-row-off"
SEVERITIES = ("warning",)
TITLE = "Answers that belong to the prompt of another row"
REASON = (
    "If a column slipped by one row, every answer belongs to the prompt above or below it: "
    "nothing can be learned but how answers sound. Seen by rare words that an answer shares "
    "with a neighbouring prompt far more than with any other, while it shares with its own no "
    "more than by chance. Steps of one text, whose next prompt holds the answer, are no such rows."
)
SOURCE = "practice; sorting or shifting one column of a table"
EXAMPLE = """\
{"prompt": "What is asthma?", "completion": "Gout is a kind of arthritis."}
{"prompt": "What is gout?", "completion": "Rabies is a virus of mammals."}"""
MEND = "Make the file again from its source; look at ten rows of it."

MIN_ROWS, MAX_ROWS = 90, 3_000
MIN_PARTS = 0.8  # of the neighbours must not quote the answer: else rows are steps of one text
NOTHING = 0.2  # own fit above chance, in that of the neighbour
LEAST = 0.03  # cosine above chance
SURE = 8.0  # standard errors


def find(facts: Facts) -> Iterator[Finding]:
    rows = facts.train.chats[:MAX_ROWS]
    if len(rows) < MIN_ROWS or not facts.train.is_whole:
        return
    fit = fits(rows)
    for distance, place in ((1, "next"), (-1, "previous")):
        if not _belongs(fit, distance):
            continue
        hits = Hits(facts.train, len(rows))
        for row, there, own in zip(rows, fit[distance], fit[0], strict=True):
            if there > own:
                hits.add(row, row.answer)
        yield hits.finding(
            ID,
            "warning",
            f"have an answer that fits the {place} row's prompt better than their own, and as a "
            "whole answers fit their own no better than any",
            "a column slipped by one row; make the file again",
        )


def _belongs(fit: Mapping[int, np.ndarray], distance: int) -> bool:
    """Whether answers fit the prompts at a distance, and not their own."""
    # At least half of the far rows exist, as there are more rows than they are apart.
    far = np.stack([fit[one] for one in FAR])
    chance = np.nansum(far, axis=0) / np.maximum(1, (~np.isnan(far)).sum(axis=0))
    there = fit[distance] - chance
    known = ~np.isnan(there)
    if known.sum() < max(MIN_ROWS - 1, MIN_PARTS * len(there)):
        return False
    above, own = float(there[known].mean()), float((fit[0] - chance)[known].mean())
    error = float(there[known].std()) / np.sqrt(known.sum())
    return above >= LEAST and above >= SURE * error and own <= NOTHING * above
