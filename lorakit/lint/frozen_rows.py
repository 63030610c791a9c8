"""Control and added tokens that training rows use, and whose embedding rows do not train."""

from __future__ import annotations

import numpy as np

from lorakit.base.from_recipe import token_ids_of
from lorakit.base.unmoved_rows import EMBEDDINGS
from lorakit.lint.facts import Facts

MAX_ROWS = 1_000  # that are looked through, evenly spread


def frozen_used_ids(facts: Facts) -> set[int]:
    """Their ids; none where a saved adapter goes on or the whole embedding is trained."""
    adapter = facts.recipe.adapter
    saved = adapter.modules_to_save or []
    if adapter.path is not None or any(name.endswith(EMBEDDINGS) for name in saved):
        return set()
    rows = adapter.trainable_token_indices or []
    trained = set(rows if isinstance(rows, list) else [i for ids in rows.values() for i in ids])
    trained |= {i for i in token_ids_of(facts.tokenizer, facts.recipe.base) if isinstance(i, int)}
    examples = facts.sets.train.examples
    picked = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MAX_ROWS)).round())
    used: set[int] = set()
    for i in picked.astype(int):
        ids = examples[int(i)].input_ids
        used |= set(ids[np.isin(ids, facts.control_ids)].tolist())
    return used - trained
