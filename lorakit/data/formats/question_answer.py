"""`question_answer`: `{"question": ..., "answer": ..., "context": ...}`, context optional.

The shape of MedQuAD, GSM8K and PubMedQA. A context is put before the question, after a blank line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.data.conversation import Conversation
from lorakit.data.fields import optional_text, text_of

NAME = "question_answer"
COLUMNS = ("question", "answer", "context")
PRIORITY = 2


def matches(columns: set[str], row: Mapping[str, Any]) -> bool:
    return {"question", "answer"} <= columns


def convert(values: Mapping[str, Any], where: str) -> Conversation:
    question = text_of(values, "question", where)
    context = optional_text(values, "context", where)
    prompt = f"{context}\n\n{question}" if context.strip() else question
    return Conversation.of(("user", prompt), ("assistant", text_of(values, "answer", where)))
