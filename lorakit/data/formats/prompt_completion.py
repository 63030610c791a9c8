"""`prompt_completion`: `{"prompt": ..., "completion": ...}`, both texts or both lists of messages.

Texts become a user turn and an assistant turn, so the chat template applies; only the completion's
assistant turns are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorakit.data.conversation import Conversation
from lorakit.data.fields import optional_text, text_of
from lorakit.data.turns import conversation_from, tools_from
from lorakit.errors import DataError, kind_of

NAME = "prompt_completion"
COLUMNS = ("prompt", "completion", "system", "tools")
PRIORITY = 2


def matches(columns: set[str], row: Mapping[str, Any]) -> bool:
    return {"prompt", "completion"} <= columns


def convert(values: Mapping[str, Any], where: str) -> Conversation:
    prompt, completion = values.get("prompt"), values.get("completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        raise DataError(
            f"{where}: prompt is {kind_of(prompt)} and completion "
            f"{kind_of(completion)}; give two texts or two lists of messages."
        )
    system = optional_text(values, "system", where)
    if system.strip() and isinstance(prompt, list):
        raise DataError(
            f"{where}: column 'system' beside a list of messages; make it the first message."
        )
    if not isinstance(prompt, list) or not isinstance(completion, list):
        return Conversation.of(
            *([("system", system)] if system.strip() else []),
            ("user", text_of(values, "prompt", where)),
            ("assistant", text_of(values, "completion", where)),
        )
    whole = conversation_from(
        [*prompt, *completion], f"{where}: prompt and completion", tools_from(values, where)
    )
    untrained = (0.0,) * len(prompt)
    return replace(whole, weights=untrained + whole.weights[len(prompt) :])
