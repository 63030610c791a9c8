"""`prompt_only`: TRL's rows for GRPO, `{"prompt": ...}`, a text or a list of messages.

Other columns go to reward functions by their names. `answer`, a text or a number, is the right
answer as well, which scorers hold completions to (columns: {answer: solution}); anything else in it
is for reward functions alone. Without it the row is a question that rewards decide about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorakit.data.conversation import Conversation
from lorakit.data.fields import optional_text, text_of
from lorakit.data.turns import conversation_from, tools_from
from lorakit.errors import DataError

NAME = "prompt_only"
COLUMNS = ("prompt", "answer", "system", "tools")
PRIORITY = 1
# With one of them the row says more than a question.
NOT_ALONE = {"completion", "chosen", "rejected", "text"}


def matches(columns: set[str], row: Mapping[str, Any]) -> bool:
    return "prompt" in columns and not columns & NOT_ALONE


def convert(values: Mapping[str, Any], where: str) -> Conversation:
    prompt, system = values.get("prompt"), optional_text(values, "system", where)
    answer = {"role": "assistant", "content": _answer(values, where)}
    if not isinstance(prompt, list):
        asked = Conversation.of(
            *([("system", system)] if system.strip() else []),
            ("user", text_of(values, "prompt", where)),
        )
    else:
        if system.strip():
            raise DataError(
                f"{where}: column 'system' beside a list of messages; make it the first message."
            )
        asked = conversation_from(prompt, f"{where}: prompt", tools_from(values, where))
        if asked.messages[-1]["role"] == "assistant":
            raise DataError(
                f"{where}: prompt ends with the assistant's turn, so that nothing is asked; "
                "possible: the user's, or a tool's. Remove it, or make it the answer."
            )
    untrained = (0.0,) * len(asked.messages)
    return replace(asked, messages=(*asked.messages, answer), weights=(*untrained, 1.0))


def _answer(values: Mapping[str, Any], where: str) -> str:
    """The right answer; "" where there is none that a scorer could read."""
    answer = values.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    return optional_text(values, "answer", where) if isinstance(answer, str) else ""
