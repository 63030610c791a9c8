"""Token ids that the base has no embedding for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "ids-beyond-vocabulary"
SEVERITIES = ("error",)
TITLE = "Token ids that the base has no embedding for"
REASON = (
    "A tokenizer with more tokens than the model's embedding has rows gives ids that do not "
    "exist: training fails, or reads garbage on a GPU."
)
SOURCE = "peft#1300, #1457: tokenizers that were grown without their model"
EXAMPLE = "base: {model: a_folder_whose_tokenizer_was_grown}"
MEND = (
    "Use the tokenizer that belongs to the model; new tokens go into base.add_tokens, which "
    "grows both."
)

MAX_ROWS = 2_000


def find(facts: Facts) -> Iterator[Finding]:
    base = facts.recipe.base
    num_rows = int(facts.config.get_text_config().vocab_size)
    # New tokens get rows of their own when the base is loaded.
    num_rows = (
        max(num_rows, len(facts.tokenizer))
        if base.add_tokens or base.add_special_tokens
        else num_rows
    )
    examples = facts.sets.train.examples
    picked = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MAX_ROWS)).round())
    highest = max(int(examples[int(i)].input_ids.max()) for i in picked.astype(int))
    if highest >= num_rows:
        token = facts.tokenizer.convert_ids_to_tokens(highest)
        message = (
            f"train: token {token!r} has id {highest}, but the base has {num_rows} embeddings; "
            "use the "
            "model's own tokenizer, and name new tokens in base.add_tokens"
        )
        yield Finding(ID, "error", message, "base.model")
