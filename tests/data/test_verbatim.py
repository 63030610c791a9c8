"""Law: a template that is said to copy what messages say renders as its masked rendering filled in;
one that looks at what they say is never said to copy it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lorakit import builtin
from lorakit.data.conversation import Conversation
from lorakit.data.render import Renderer
from lorakit.data.render_many import render_many
from lorakit.data.template_process import TemplateProcess
from lorakit.data.verbatim import copies_text
from lorakit.errors import DataError
from tests import tiny
from tests.data import chat_templates

FOLDER = Path(builtin.__file__).parent
COPYING = [name for name in chat_templates.names() if copies_text(chat_templates.source(name))]
# Pieces of texts that templates look for, trim, or write themselves.
SAID = ["", " ", "\n", "a", "No.", "\u00a0x\u2003", "<think>", "</think>", "{{ 1 }}", "'\"", "\\n"]
SAID += ["<tool_call>", "assistant", "\U0001f600", "e\u0301", "user: ", "<b>", "  two  ", "mq", "%"]


def talks(seed: int, count: int) -> list[Conversation]:
    """Conversations that say what templates might look for."""
    drawn = random.Random(seed)
    made = []
    for _ in range(count):
        roles = ["user", "assistant"] * drawn.randint(1, 3)
        if drawn.random() < 0.4:
            roles = ["system", *roles]
        texts = ["".join(drawn.choices(SAID, k=drawn.randint(0, 5))) for _ in roles]
        made.append(Conversation.of(*zip(roles, texts, strict=True)))
    return made


def check_written(renderer: Renderer, seed: int) -> int:
    """How many of the conversations could be written without rendering; all as rendered."""
    written = 0
    for talk in talks(seed, 60):
        shaped = renderer.shape(talk)
        found = renderer.locator.written(shaped)
        if found is None:
            continue
        text, located = found
        template = renderer.template
        assert text == template.render(shaped.messages), talk
        assert located.alignment == renderer.locator.locate(shaped, text).alignment
        last = located.shape.skeleton.turns[-1]
        if last.prompt_agrees:
            messages, tools, prompt = shaped.prompt() or pytest.fail("it opens with a question")
            asked = template.render(messages, tools, prompt=prompt)
            assert asked == text[: located.alignment.real(len(last.prompt))]
        written += 1
    return written


def test_most_of_the_usual_templates_copy() -> None:
    assert {"llama3", "qwen2_5", "phi3", "gemma", "gemma3", "qwen3_instruct_2507"} <= set(COPYING)
    own = (FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    assert copies_text(tiny.CHATML) and copies_text(own)


@pytest.mark.parametrize("name", COPYING)
def test_copied_texts_are_those_rendered(name: str) -> None:
    assert check_written(Renderer(chat_templates.tokenizer(name)), seed=COPYING.index(name)) > 10


def test_so_are_those_of_our_own_templates() -> None:
    own = AutoTokenizer.from_pretrained(FOLDER / "model")
    for tokenizer in (own, tiny.tokenizer(), tiny.tokenizer(chat_template=None)):
        assert check_written(Renderer(tokenizer), seed=0) > 10


LOOKING = {
    "compares": "{{ m.content == 'a' }}",
    "searches": "{{ 'a' in m.content }}",
    "searches what was joined": "{% set x = 'b' ~ m.content %}{{ 'a' in x }}",
    "searches what is joined later": "{% if x and 'a' in x %}{% endif %}{% set x = m.content %}",
    "starts with": "{{ m.content.startswith('a') }}",
    "measures": "{{ m.content | length }}",
    "cuts": "{{ m.content[1:] }}",
    "takes a letter": "{{ m.content[0] }}",
    "changes case": "{{ m.content | upper }}",
    "trims letters": "{{ m.content.strip('a') }}",
    "trims letters by a filter": "{{ m.content | trim('a') }}",
    "replaces": "{{ m.content | replace('a', 'b') }}",
    "splits": "{{ m.content.split('a')[0] }}",
    "repeats": "{{ m.content * 2 }}",
    "formats": "{{ '%s' % m.content }}",
    "formats by a method": "{{ '{:>9}'.format(m.content) }}",
    "escapes": "{{ m.content | tojson }}",
    "writes the message": "{{ m }}",
    "writes all of them": "{{ messages }}",
    "walks over letters": "{% for c in m.content %}{{ loop.index }}{% endfor %}",
    "walks over values": "{% for k, v in m.items() %}{{ v }}{% endfor %}",
    "chooses by content": "{{ {'a': 1}[m.content] }}",
    "keys by content": "{{ {m.content: 1} }}",
    "filters": "{{ messages | selectattr('content', 'equalto', 'a') | list }}",
    "maps": "{{ messages | map(attribute='content') | join }}",
    "compares neighbours": "{{ loop.previtem.content == m.content }}",
    "compares them by a name": "{{ loop['prev' ~ 'item'].role }}",
    "asks whether it changed": "{{ loop.changed(m.content) }}",
    "hides it in a namespace": "{% set n = namespace(t='') %}{% set n.t = m.content %}{{ n.t[0] }}",
    "hides it in a list": "{{ [m.content][0] | length }}",
    "hides it in a macro": "{% macro f(t) %}{{ t | length }}{% endmacro %}{{ f(m.content) }}",
    "hides it in a call": "{% set x %}{{ m.content }}{% endset %}{{ x | length }}",
    "filters a block": "{% filter upper %}{{ m.content }}{% endfilter %}",
    "reaches out": "{{ self }}",
    "tells the time": "{{ strftime_now('%S') }}",
    "rolls dice": "{{ [1, 2, 3] | random }}",
    "writes anything": "{{ lipsum() }}",
    "asks by another name": "{% set all = messages %}{{ all[0].content == 'a' }}",
    "asks by another loop": "{% for m in messages[1:] %}{{ m.content | length }}{% endfor %}",
    "is broken": "{% if %}",
    "is too deep": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "has too long a number": "{{ 1" + "0" * 9999 + " }}",
}


@pytest.mark.parametrize("how", LOOKING)
def test_templates_that_look_are_not_said_to_copy(how: str) -> None:
    around = "{{% for m in messages %}}{{{{ m.role + m.content }}}}{}{{% endfor %}}"
    assert copies_text(around.format(""))
    assert not copies_text(around.format(LOOKING[how]))


def test_asking_whether_a_text_is_empty_is_not_looking() -> None:
    template = (
        "{% for m in messages %}{{ m.role if m.content.strip() else 'silence' }}"
        "{% if m['content'] is string and m.content != '' %}{{ m.content | trim }}{% endif %}"
        "{% if m.tool_calls %}{{ m.content | length }}{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    assert copies_text(template)
    assert check_written(Renderer(tiny.tokenizer(chat_template=template)), seed=1) > 10


def test_rows_of_copying_templates_make_no_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    trips: list[int] = []
    ask = TemplateProcess._ask

    def counted(self: TemplateProcess, sources: object, request: bytes) -> object:
        trips.append(len(request))
        return ask(self, sources, request)  # type: ignore[arg-type]

    monkeypatch.setattr(TemplateProcess, "_ask", counted)
    renderer = Renderer(tiny.tokenizer())
    one = Conversation.of(("user", "Where?"), ("assistant", "In Paris."))
    (first,) = render_many(renderer, [one])
    assert not isinstance(first, DataError) and trips
    trips.clear()
    many = list(render_many(renderer, [one] * 2000))
    assert trips == []
    assert {str(rendered) for rendered in many} == {str(first)}
