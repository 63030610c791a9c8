"""What the child process of `template_process.py` does; `lorakit/child/serve.py` runs it, nobody
imports it.

A template is somebody else's program. Jinja2's sandbox keeps it from the machine, not from running
for ever or filling the memory, so it runs where it can be killed.

Templates are rendered as transformers' `render_jinja_template` does (5.23; a test holds every
template against the installed one). It is written down here once more because its import takes
0.5 s of CPU, which every run would wait for, and jinja2's 0.04.

Requests: {"load": key, "source": ...}, or a rendering {"render": key, "messages", "tools",
"prompt", "marked", "special"}, answered by {"text", "spans"} or {"error"}, or {"rows": [rendering,
...]}, answered by {"answers": [answer, ...]}. Renderings of a template that was not loaded are
answered by {"unknown": key}.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

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
# Names that a message's reasoning goes by; templates read the first, gpt-oss's the second.
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


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
        text, spans = _rendered(request, source)
    except TEMPLATE_FAULTS as error:
        reason = str(error).strip() or type(error).__name__
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        return {"error": f"{kind}{reason[:300]}"}
    if len(text) > max_characters:
        return {"error": f"it wrote {len(text)} characters; {max_characters} are allowed"}
    return {"text": text, "spans": spans}


def _rendered(request: dict[str, Any], source: str) -> tuple[str, list[tuple[int, int]]]:
    """The text, and where `{% generation %}` blocks stand in it, if that was asked."""
    template, blocks = _compiled(source)
    blocks.written, blocks.spans = [], []
    for part in template.generate(
        messages=[_with_reasoning(message) for message in request["messages"]],
        tools=request["tools"] or None,
        documents=None,
        add_generation_prompt=request["prompt"],
        **request["special"],
    ):
        blocks.written.append(part)
    return "".join(blocks.written), blocks.spans if request["marked"] else []


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    given = (message[key] for key in REASONING_KEYS if message.get(key) is not None)
    reasoning = next(given, None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


@lru_cache
def _compiled(source: str) -> tuple[jinja2.Template, _GenerationBlocks]:
    """The template, and the extension that notes its `{% generation %}` blocks."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlocks, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    blocks = environment.extensions[_GenerationBlocks.identifier]
    assert isinstance(blocks, _GenerationBlocks)
    return environment.from_string(source), blocks


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` blocks.

    Attributes:
        written: the parts of the text so far.
        spans: first and last character of each block.
    """

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it
    written: list[str]
    spans: list[tuple[int, int]]

    def parse(self, parser: Parser) -> Node:
        """The block as a call of `_noted`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_noted"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _noted(self, context: jinja2.nodes.EvalContext, caller: Macro) -> str:
        text = str(caller())
        start = sum(map(len, self.written))
        self.spans.append((start, start + len(text)))
        return text


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes what HTML would read."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _Dict:
    """`dict` for templates, without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """A namespace whose attributes do not begin with an underscore: no way to Python's insides."""

    # No name of its own for the first argument, so that `namespace(self=...)` works.
    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(
            "Chat templates cannot store underscore-prefixed attributes on a namespace, but got "
            f"{name!r}. Please rename the attribute."
        )
