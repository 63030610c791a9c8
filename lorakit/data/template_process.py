"""Rendering in a child process that is killed when a template runs too long or grows too large.

One child serves the whole process and starts at the first use (0.05 s of CPU). It ends with its
parent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lorakit.child.process import ChildError, ChildProcess
from lorakit.errors import DataError

RENDER_SECONDS = 20.0
MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 32 << 20
# Of requests that share a trip: enough that the trip costs nothing, so few that others need not
# wait for the child, and that the answers are a small part of its memory.
BATCH_BYTES = 256 << 10

Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Rendering:
    """What a template is to render.

    Attributes:
        source: the template.
        messages, tools: as the template takes them.
        special: the special tokens by name.
        prompt: with the generation prompt.
        marked: with the spans of `{% generation %}` blocks.
    """

    source: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    special: dict[str, Any]
    prompt: bool = False
    marked: bool = False


class TemplateProcess:
    """A child process that renders chat templates, one request at a time.

    Args:
        seconds: wall time of one rendering.
    """

    def __init__(self, seconds: float = RENDER_SECONDS) -> None:
        self._seconds = seconds
        self.child = ChildProcess(
            "the process that renders chat templates",
            Path(__file__).with_name("template_child.py"),
            [str(MAX_CHARACTERS)],
            needs="jinja2",
            memory_bytes=MEMORY_BYTES,
            answer_bytes=MEMORY_BYTES,
        )

    def render(self, rendering: Rendering) -> tuple[str, Spans]:
        """The rendered text, and the spans of `{% generation %}` blocks if `marked`.

        Raises:
            DataError: the template refuses the messages, or breaks a limit.
            RunError: the child could not be started.
        """
        answer = self._ask([rendering.source], json.dumps(_request(rendering)).encode())
        if answer is None:
            raise DataError(
                f"the chat template did not finish a row within {self._seconds:.0f} s or "
                f"{MEMORY_BYTES >> 20} MiB, and was stopped; use another chat_template"
            )
        return _read_answer(answer)

    def render_many(self, renderings: Sequence[Rendering]) -> list[str | DataError]:
        """The texts, in order, or what `render` would raise: many of them in one trip."""
        texts: list[str | DataError] = []
        for batch, request in _batches(renderings):
            answer = self._ask({rendering.source for rendering in batch}, request)
            if answer is None:  # one of them hangs or grows: each by itself shows which
                texts += [self._text_or_error(rendering) for rendering in batch]
            else:
                texts += [_text_or_error(one) for one in answer["answers"]]
        return texts

    def _text_or_error(self, rendering: Rendering) -> str | DataError:
        try:
            return self.render(rendering)[0]
        except DataError as error:
            return error

    def _ask(self, sources: Iterable[str], request: bytes) -> dict[str, Any] | None:
        """The child's answer to a request that renders `sources`; None: it broke a limit."""
        try:
            answer: dict[str, Any] = self.child.ask(request, self._seconds)
            while "unknown" in answer:  # the child is a new one, or a source is
                for source in sources:
                    load = json.dumps({"load": _key(source), "source": source}).encode()
                    self.child.ask(load, self._seconds)
                answer = self.child.ask(request, self._seconds)
        except ChildError:
            return None
        return answer


@cache
def template_process() -> TemplateProcess:
    """The one child of this process."""
    return TemplateProcess()


@lru_cache(maxsize=16)
def _key(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _request(rendering: Rendering) -> dict[str, Any]:
    return {
        "render": _key(rendering.source),
        "messages": rendering.messages,
        "tools": rendering.tools,
        "special": rendering.special,
        "prompt": rendering.prompt,
        "marked": rendering.marked,
    }


def _batches(renderings: Sequence[Rendering]) -> Iterator[tuple[list[Rendering], bytes]]:
    """Renderings that share a trip, and the request for them."""
    batch: list[Rendering] = []
    parts: list[bytes] = []
    size = 0
    for rendering in renderings:
        part = json.dumps(_request(rendering)).encode()
        if batch and size + len(part) > BATCH_BYTES:
            yield batch, b'{"rows": [%b]}' % b", ".join(parts)
            batch, parts, size = [], [], 0
        batch.append(rendering)
        parts.append(part)
        size += len(part)
    if batch:
        yield batch, b'{"rows": [%b]}' % b", ".join(parts)


def _read_answer(answer: dict[str, Any]) -> tuple[str, Spans]:
    if "error" in answer:
        raise DataError(f"the chat template refuses it: {answer['error']}")
    return answer["text"], [(start, end) for start, end in answer["spans"]]


def _text_or_error(answer: dict[str, Any]) -> str | DataError:
    try:
        return _read_answer(answer)[0]
    except DataError as error:
        return error
