"""New tokens that no row contains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.base.from_recipe import new_tokens
from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "new-tokens-unused"
SEVERITIES = ("warning",)
TITLE = "New tokens that no row contains"
REASON = (
    "Every token of base.add_tokens gets an embedding that starts as an average of others and "
    "must be learned from rows that have it. One that occurs nowhere, or in a few rows, stays "
    "noise."
)
SOURCE = "practice; Hewitt, Initializing New Word Embeddings (2021)"
EXAMPLE = "base: {add_tokens: ['<dose>']}   # and no row says <dose>"
MEND = "Remove the token, or bring rows that use it."

MIN_TIMES = 5


def find(facts: Facts) -> Iterator[Finding]:
    tokens = new_tokens(facts.recipe.base)
    if not tokens:
        return
    ids = np.array(facts.tokenizer.convert_tokens_to_ids(tokens))
    counts = np.zeros(len(ids), dtype=np.int64)
    for row in facts.train:
        counts += (facts.sets.train.examples[row.index].input_ids[:, None] == ids).sum(axis=0)
    rare = [token for token, count in zip(tokens, counts, strict=True) if count < MIN_TIMES]
    if rare:
        message = (
            f"train: new {'token' if len(rare) == 1 else 'tokens'} {', '.join(rare[:4])} occurs "
            "under "
            f"{MIN_TIMES} times in the rows read, too few to learn an embedding; remove it, or "
            "bring rows"
        )
        yield Finding(ID, "warning", message, "base.add_tokens")
