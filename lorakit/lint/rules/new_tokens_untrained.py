"""Control tokens whose embeddings do not train."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.frozen_rows import frozen_used_ids

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


def find(facts: Facts) -> Iterator[Finding]:
    recipe, tokenizer = facts.recipe, facts.tokenizer
    if tokenizer.chat_template is not None or recipe.data.chat_template is None:
        return  # its own template's tokens were trained with it
    known = {
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
    }
    untrained = sorted(frozen_used_ids(facts) - known)
    if untrained:
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(untrained)[:4]))
        message = (
            f"the template writes {names}, which {recipe.base.model} was never trained on, and "
            "their "
            f"embeddings stay frozen; set adapter.trainable_token_indices: {untrained}"
        )
        yield Finding(ID, "warning", message, "adapter.trainable_token_indices")
