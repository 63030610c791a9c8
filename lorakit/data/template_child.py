"""The child process that renders chat templates; started by `template_process.py`.

A template is somebody else's program. Jinja2's sandbox keeps it from the machine, not from running
for ever or filling the memory, so it runs where it can be killed.

Protocol, both ways: 8 bytes of length (big endian), then JSON. Requests: {"load": key, "source":
...} or {"render": key, "messages", "tools", "prompt", "marked", "special"}; answers {"text",
"spans"} or {"error"}. {"rows": [request, ...]} is answered by {"answers": [answer, ...]}.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import jinja2

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


def main(extra_bytes: int, max_characters: int) -> None:
    """Answer requests until stdin closes."""
    render = transformers_renderer()
    _limit_memory(extra_bytes)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sources: dict[str, str] = {}
    gc.freeze()  # what was imported stays: no use in looking at it with every collection
    _write(answers, {"ready": True})
    while (request := _read(requests)) is not None:
        if "load" in request:
            sources[request["load"]] = request["source"]
        elif "rows" in request:
            rows = request["rows"]
            done = [_answer(render, row, sources[row["render"]], max_characters) for row in rows]
            _write(answers, {"answers": done})
        else:
            source = sources[request["render"]]
            _write(answers, _answer(render, request, source, max_characters))


def transformers_renderer() -> Callable[..., Any]:
    """`render_jinja_template` of transformers, in a third of the time that importing it takes.

    Nearly all of that goes into the start of the two packages around its module: they are entered
    without it, which only this process sees. Where the module needs more of them, they start.
    """
    found = importlib.util.find_spec("transformers")
    if found is not None and found.submodule_search_locations:
        root = Path(found.submodule_search_locations[0])
        for name, folder in (("transformers", root), ("transformers.utils", root / "utils")):
            package = ModuleType(name)
            package.__path__ = [str(folder)]
            sys.modules[name] = package
    name = "transformers.utils.chat_template_utils"
    try:
        module = importlib.import_module(name)
    except ImportError:
        for loaded in [loaded for loaded in sys.modules if loaded.startswith("transformers")]:
            del sys.modules[loaded]
        module = importlib.import_module(name)
    renderer: Callable[..., Any] = module.render_jinja_template
    return renderer


def _answer(
    render: Callable[..., Any], request: dict[str, Any], source: str, max_characters: int
) -> dict[str, Any]:
    try:
        result = render(
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


def _limit_memory(extra_bytes: int) -> None:
    """Cap the address space at what it is now plus `extra_bytes` (on Linux; elsewhere the time
    limit alone holds)."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read(stream: BinaryIO) -> dict[str, Any] | None:
    header = stream.read(8)
    if len(header) < 8:
        return None
    return json.loads(stream.read(struct.unpack(">Q", header)[0]))


def _write(stream: BinaryIO, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode()
    stream.write(struct.pack(">Q", len(data)) + data)
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
