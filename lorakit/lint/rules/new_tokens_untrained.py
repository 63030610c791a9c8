"""Control tokens whose embeddings do not train."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.base.from_recipe import token_ids_of
from lorakit.base.unmoved_rows import EMBEDDINGS
from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "new-tokens-untrained"
SEVERITIES = ("warning",)
TITLE = "Control tokens whose embeddings do not train"
REASON = (
    "A base that was never tuned for conversations has control tokens in its vocabulary that "
    "it never saw: their embeddings are noise, and LoRA on linear layers cannot move them. "
    "base.add_tokens trains the rows of new tokens by itself; for tokens that are there "
    "already, trainable_token_indices does."
)
SOURCE = "practice; Llama 3's reserved tokens; peft#2898"
EXAMPLE = """\
base: {model: meta-llama/Llama-3.1-8B}   # not the Instruct model
data: {chat_template: llama3_instruct.jinja}"""
MEND = (
    "Train those rows: adapter.trainable_token_indices; or start from the instruction-tuned model."
)

MAX_ROWS = 100


def find(facts: Facts) -> Iterator[Finding]:
    recipe, tokenizer = facts.recipe, facts.tokenizer
    adapter = recipe.adapter
    if tokenizer.chat_template is not None or recipe.data.chat_template is None:
        return  # its own template's tokens were trained with it
    saved = adapter.modules_to_save or []
    if adapter.path is not None or any(name.endswith(EMBEDDINGS) for name in saved):
        return
    known = {
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
    }
    rows = adapter.trainable_token_indices or []
    trained = set(rows if isinstance(rows, list) else [i for ids in rows.values() for i in ids])
    trained |= {i for i in token_ids_of(tokenizer, recipe.base) if isinstance(i, int)}
    examples = facts.sets.train.examples
    used: set[int] = set()
    for i in range(min(len(examples), MAX_ROWS)):
        ids = examples[i].input_ids
        used |= set(ids[np.isin(ids, facts.control_ids)].tolist())
    untrained = sorted(used - known - trained)
    if untrained:
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(untrained)[:4]))
        message = (
            f"the template writes {names}, which {recipe.base.model} was never trained on, and "
            "their "
            f"embeddings stay frozen; set adapter.trainable_token_indices: {untrained}"
        )
        yield Finding(ID, "warning", message, "adapter.trainable_token_indices")
