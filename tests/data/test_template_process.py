"""Templates are other people's programs: they cannot hang the run, fill the memory or reach out."""

from __future__ import annotations

import os
import time

import pytest

from lorakit.data.conversation import Conversation
from lorakit.data.render import Renderer
from lorakit.data.template_process import BATCH_BYTES, Rendering, TemplateProcess, template_process
from lorakit.errors import DataError
from tests import tiny

TALK = [{"role": "user", "content": "hello"}]


def render(process: TemplateProcess, source: str) -> str:
    return process.render(Rendering(source, TALK, [], {}))[0]


@pytest.fixture(scope="module")
def process():
    quick = TemplateProcess(seconds=1.0)
    yield quick
    quick.child.close()


BOMBS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "memory": "{% set x = 'a' * 2000000000 %}{{ x | length }}",
    "output": "{{ 'a' * 60000000 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_in_time_and_the_next_row_renders(process, bomb: str) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match=r"did not finish a row|refuses it"):
        render(process, BOMBS[bomb])
    assert time.monotonic() - started < 10
    assert render(process, "{{ messages[0].content }}") == "hello"


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ self.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_templates_stay_in_the_sandbox(process, source: str) -> None:
    try:
        text = render(process, source)
    except DataError as error:
        assert "refuses it" in str(error)
    else:
        assert text.strip() in ("", "()")


def test_a_faulty_template_says_where(process) -> None:
    with pytest.raises(DataError, match=r"refuses it: .*Encountered unknown tag 'oops'"):
        render(process, "{% oops %}")


def test_a_killed_child_is_replaced(process) -> None:
    assert render(process, "a") == "a"
    os.kill(process.child.pid, 9)
    os.waitpid(process.child.pid, 0)
    assert render(process, "b") == "b"


def test_one_child_serves_every_renderer() -> None:
    talk = Conversation.of(("user", "a"), ("assistant", "b"))
    Renderer(tiny.tokenizer()).render(talk)
    pid = template_process().child.pid
    Renderer(tiny.tokenizer(chat_template=None)).render(talk)
    assert pid is not None and template_process().child.pid == pid


def test_many_renderings_are_those_of_each_by_itself(process) -> None:
    good, refused = (
        "{{ messages[0].content }}",
        "{{ raise_exception('no ' + messages[0].content) }}",
    )
    long = [{"role": "user", "content": "x" * (BATCH_BYTES // 3)}]
    asked = [
        Rendering(source, messages, [], {})
        for source in (good, refused, BOMBS["loops"], good)
        for messages in (TALK, long)
    ]
    many = process.render_many(asked)
    assert len(many) == len(asked)
    for rendering, text in zip(asked, many, strict=True):
        try:
            assert text == process.render(rendering)[0]
        except DataError as error:
            assert isinstance(text, DataError) and str(text) == str(error)
