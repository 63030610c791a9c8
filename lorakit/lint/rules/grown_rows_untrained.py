"""Tokens that were added to the base beforehand, and whose embeddings do not train."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.base import hub
from lorakit.base.from_recipe import token_ids_of
from lorakit.base.unmoved_rows import EMBEDDINGS, unmoved_rows
from lorakit.data.contract import Finding
from lorakit.errors import ModelError
from lorakit.lint.facts import Facts

ID = "grown-rows-untrained"
SEVERITIES = ("warning",)
TITLE = "Added tokens whose embedding rows were never trained"
REASON = (
    "Tokens that were added to a tokenizer get rows at the mean of the embedding (or zeros), and "
    "LoRA on linear layers does not move them: all of them are the same word to the model, as "
    "input, and with tied embeddings as output too. Looked at are added tokens that the training "
    "rows use, and only where the base's weights are at hand; rows drawn at random cannot be told "
    "from trained ones."
)
SOURCE = (
    "transformers' resize_token_embeddings (mean_resizing); peft#2898; under-trained tokens: "
    "arXiv 2405.05417"
)
EXAMPLE = """\
base: {model: ./base_with_three_more_tokens}
data: {train: rows_that_use_them.jsonl}"""
MEND = (
    "Train those rows: adapter.trainable_token_indices; or give the original base, and the tokens "
    "as base.add_tokens, whose rows train by themselves."
)

MAX_ROWS = 1_000


def find(facts: Facts) -> Iterator[Finding]:
    adapter, base = facts.recipe.adapter, facts.recipe.base
    saved = adapter.modules_to_save or []
    if adapter.path is not None or any(name.endswith(EMBEDDINGS) for name in saved):
        return
    rows = adapter.trainable_token_indices or []
    trained = set(rows if isinstance(rows, list) else [i for ids in rows.values() for i in ids])
    trained |= {i for i in token_ids_of(facts.tokenizer, base) if isinstance(i, int)}
    used = sorted(_used(facts) - trained)
    if not used:
        return
    try:
        untrained = unmoved_rows(hub.resolve_small_files(base.model, base.revision), used)
    except ModelError:
        return  # without weights at hand; loading will say what is wrong with broken ones
    if untrained:
        names = ", ".join(map(str, facts.tokenizer.convert_ids_to_tokens(untrained)[:4]))
        message = (
            f"train: rows use {names}, whose embeddings in {base.model} are as they were made "
            "(zero, or the mean of all), and stay frozen; set "
            f"adapter.trainable_token_indices: {untrained}"
        )
        yield Finding(ID, "warning", message, "adapter.trainable_token_indices")


def _used(facts: Facts) -> set[int]:
    """Added and special tokens in up to a thousand rows, evenly spread."""
    examples = facts.sets.train.examples
    picked = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MAX_ROWS)).round())
    used: set[int] = set()
    for i in picked.astype(int):
        ids = examples[int(i)].input_ids
        used |= set(ids[np.isin(ids, facts.control_ids)].tolist())
    return used
