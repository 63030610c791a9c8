"""Chat templates of real model families, as they ship with trl, and tokenizers that fit them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import trl
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from lorakit.data.conversation import Conversation
from tests import tiny

FOLDER = Path(trl.__file__).parent / "chat_templates"

_SPECIAL = re.compile(
    r"<\|[^<>\s'\"{}%|]{1,40}\|?>|<[^<>\s'\"{}%|]{1,30}\|>|<\uff5c[^<>\s'\"{}%]{1,40}\uff5c>"
    r"|<(?:start|end)_of_\w+>|<bos>|<eos>|\[/?INST\]|\[gMASK\]|<sop>"
)
_TAGS = re.compile(r"</?(?:think|tool_call|tool_response|arg_key|arg_value)>")

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "DESCWORD of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    },
}


def names() -> list[str]:
    """Every template that ships with trl."""
    return sorted(path.stem for path in FOLDER.glob("*.jinja"))


def source(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose special tokens are those the template spells."""
    fast = tiny.tokenizer(chat_template=None)
    text = source(name)
    special = sorted(set(_SPECIAL.findall(text)))
    fast.add_special_tokens(
        {"extra_special_tokens": [AddedToken(t, normalized=False, special=True) for t in special]}
    )
    tags = sorted(set(_TAGS.findall(text)))
    fast.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in tags])
    fast.chat_template = text
    return fast


def _user(k: int) -> dict[str, Any]:
    return {"role": "user", "content": f"UWORD{k} asks?"}


def _assistant(k: int, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": f"AWORD{k} says.", **more}


def _calling(k: int, **more: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": {"city": f"CWORD{k}"}}
    call = {"type": "function", "id": f"call{k}", "function": function}
    return {"role": "assistant", "tool_calls": [call], **more}


def _result(k: int) -> dict[str, Any]:
    return {
        "role": "tool",
        "name": "get_weather",
        "tool_call_id": f"call{k}",
        "content": f"TWORD{k} sunny",
    }


_SYSTEM = {"role": "system", "content": "SYSWORD rules."}
_INLINE = "<think>\nRWORD1 hmm.\n</think>\n\nAWORD1 says."

# Every message holds a word of its own: A answer, C call argument, R reasoning are trained.
CASES: dict[str, list[dict[str, Any]]] = {
    "single": [_user(1), _assistant(1)],
    "single, system": [_SYSTEM, _user(1), _assistant(1)],
    "multi": [_user(1), _assistant(1), _user(2), _assistant(2), _user(3), _assistant(3)],
    "multi, system": [_SYSTEM, _user(1), _assistant(1), _user(2), _assistant(2)],
    "ends with user": [_user(1), _assistant(1), _user(2)],
    "thinking": [_user(1), _assistant(1, reasoning_content="RWORD1 hmm.")],
    "thinking, multi": [
        _user(1),
        _assistant(1, reasoning_content="RWORD1 hmm."),
        _user(2),
        _assistant(2, reasoning_content="RWORD2 hmm."),
    ],
    "thinking inline": [_user(1), {"role": "assistant", "content": _INLINE}],
    "tools": [_user(1), _calling(1), _result(1), _assistant(1)],
    "tools, system, multi": [
        _SYSTEM,
        _user(1),
        _calling(1, content=""),
        _result(1),
        _assistant(1),
        _user(2),
        _assistant(2),
    ],
    "tools, call last": [_user(1), _calling(1, content="")],
    "tools, thinking": [
        _user(1),
        _calling(1, content="", reasoning_content="RWORD1 hmm."),
        _result(1),
        _assistant(1, reasoning_content="RWORD2 hmm."),
    ],
}


def conversation(case: str) -> Conversation:
    messages = CASES[case]
    tools = (TOOL,) if case.startswith("tools") else ()
    return Conversation(tuple(messages), (1.0,) * len(messages), tools)
