"""Whether a base was tuned for conversations, as far as its name tells."""

from __future__ import annotations

from pathlib import PurePath

import regex

from lorakit.recipe.builtin_names import is_builtin_model

_TUNED = regex.compile(
    r"(?:^|[-_.])(?:instruct|chat|it|sft|dpo|assistant|rlhf)(?:$|[-_.])", regex.I
)


def is_tuned_by_name(model: str) -> bool:
    """Whether the last part of a hub id or folder says so; lorakit's own base is tuned."""
    return is_builtin_model(model) or _TUNED.search(PurePath(model).name) is not None
