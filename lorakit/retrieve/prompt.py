"""What was found into the prompt, within the model's context."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lorakit.retrieve.retriever import Found

# Documents before the question: the question is then what the model has read last.
DOCUMENTS_PROMPT = """\
Use these documents where they help, and cite them by number.

{documents}

{question}"""

_FIELD = re.compile(r"\{(documents|question)\}")
_CITATION = re.compile(r"(?<!\s)\s*\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")

Item = TypeVar("Item")


def with_documents(
    messages: Sequence[dict[str, Any]],
    found: Sequence[Found],
    *,
    prompt: str = DOCUMENTS_PROMPT,
) -> list[dict[str, Any]]:
    """The messages with what was found put into the last one, numbered for citation.

    Args:
        messages: a conversation that ends with a question.
        found: chunks; none of them leaves the messages as they are.
        prompt: how the last message reads, with `{documents}` and `{question}` in it.
    """
    if not found:
        return [*messages]
    listed = "\n\n".join(f"[{one.number}] {one.chunk.text}" for one in found)
    last = messages[-1]
    # In one pass: a document that spells {question} is text like any other.
    said = {"documents": listed, "question": last["content"]}
    text = _FIELD.sub(lambda match: said[match[1]], prompt)
    return [*messages[:-1], {**last, "content": text}]


def fitting(
    items: Sequence[Item], prompt_ids: Callable[[Sequence[Item]], list[int]], budget: int | None
) -> tuple[list[int], list[Item]]:
    """The prompt with as many of the first items as fit; the last ones are dropped first.

    Args:
        items: what the prompt may do without, the most useful first.
        prompt_ids: the prompt with some of them.
        budget: tokens; None: no limit. The prompt without any item is returned whatever its length.
    """
    kept = list(items)
    while True:
        ids = prompt_ids(kept)
        if budget is None or len(ids) <= budget or not kept:
            return ids, kept
        kept.pop()


def cited(text: str, found: Sequence[Found]) -> list[int]:
    """The numbers of what was found that a text cites, in the order they come."""
    known = {one.number for one in found}
    numbers = [int(n) for match in _CITATION.finditer(text) for n in re.findall(r"\d+", match[1])]
    return [number for number in dict.fromkeys(numbers) if number in known]


def without_citations(text: str, found: Sequence[Found]) -> str:
    """The text without its citations of what was found, which no reference answer has."""
    known = {one.number for one in found}

    def bare(match: re.Match[str]) -> str:
        return "" if {int(n) for n in re.findall(r"\d+", match[1])} <= known else match[0]

    return _CITATION.sub(bare, text)
