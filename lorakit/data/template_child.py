"""What the child process of `template_process.py` does; `lorakit/child/serve.py` runs it, nobody
imports it.

A template is somebody else's program. Jinja2's sandbox keeps it from the machine, not from running
for ever or filling the memory, so it runs where it can be killed.

Requests: {"load": key, "source": ...}, or a rendering {"render": key, "messages", "tools",
"prompt", "marked", "special"}, answered by {"text", "spans"} or {"error"}, or {"rows": [rendering,
...]}, answered by {"answers": [answer, ...]}. Renderings of a template that was not loaded are
answered by {"unknown": key}.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

# What template code can raise: jinja2's own errors, and Python's for what an expression does.
TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def start(max_characters: str) -> Callable[[Any], dict[str, Any]]:
    """Renders what templates write within so many characters."""
    sources: dict[str, str] = {}
    gc.freeze()  # what was imported stays: no use in looking at it with every collection
    return lambda request: _serve(request, sources, int(max_characters))


def _serve(request: Any, sources: dict[str, str], max_characters: int) -> dict[str, Any]:
    if "load" in request:
        sources[request["load"]] = request["source"]
        return {}
    rows = request.get("rows", [request])
    for row in rows:
        if row["render"] not in sources:
            return {"unknown": row["render"]}
    done = [_answer(row, sources[row["render"]], max_characters) for row in rows]
    return {"answers": done} if "rows" in request else done[0]


def _answer(request: dict[str, Any], source: str, max_characters: int) -> dict[str, Any]:
    try:
        result: Any = render_jinja_template(  # annotated as str in transformers 5.23; it is a pair
            conversations=[request["messages"]],
            tools=request["tools"] or None,
            chat_template=source,
            return_assistant_tokens_mask=request["marked"],
            add_generation_prompt=request["prompt"],
            **request["special"],
        )
    except TEMPLATE_FAULTS as error:
        reason = str(error).strip() or type(error).__name__
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        return {"error": f"{kind}{reason[:300]}"}
    texts, spans = result
    if len(texts[0]) > max_characters:
        return {"error": f"it wrote {len(texts[0])} characters; {max_characters} are allowed"}
    return {"text": texts[0], "spans": spans[0] if request["marked"] else []}
