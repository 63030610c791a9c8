"""Tokens that were added to the base beforehand, and whose embeddings do not train."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.base import hub
from lorakit.base.unmoved_rows import unmoved_rows
from lorakit.data.contract import Finding
from lorakit.errors import ModelError
from lorakit.lint.facts import Facts
from lorakit.lint.frozen_rows import frozen_used_ids

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


def find(facts: Facts) -> Iterator[Finding]:
    base, used = facts.recipe.base, sorted(frozen_used_ids(facts))
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
