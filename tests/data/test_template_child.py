"""The child renders what transformers renders: its text, its marked blocks, or its refusal."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils import chat_template_utils

from lorakit.data import template_child
from tests.data import chat_templates

LIMIT = 1 << 20
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "a <b> \u00e9"},
    {"role": "assistant", "content": "c", "thinking": "t"},
    {"role": "assistant", "content": "d", "reasoning": "r", "reasoning_content": None},
]
# What an environment can differ in, each in a template of its own; refusals are compared as well.
ODD = {
    "to json": "{{ messages | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}",
    "escaped json": "{{ messages[0] | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}",
    "order of keys": "{% for m in messages %}{{ m.keys() | list }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}x{% endfor %}",
    "trimmed blocks": "  {% if true %}\n  a\n  {% endif %}\nb\n",
    "not given": "{{ tools is none }}{{ documents is none }}{{ nothing is defined }}",
    "prompt": "{{ add_generation_prompt }}{{ bos_token }}",
    "day": "{{ strftime_now('%Y-%m') }}",
    "namespace": "{% set n = namespace(self=1, a=2) %}{% set n.a = 3 %}{{ n.a }}{{ n.self }}",
    "hidden name": "{% set n = namespace(_a=1) %}",
    "hidden attribute": "{% set n = namespace() %}{% set n._a = 1 %}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys(['a'], 2) }}{{ dict.__class__ }}",
    "refusal": "{{ raise_exception('no ' + messages[0].content) }}",
    "refusal that is no text": "{{ raise_exception(7) }}",
    "unknown tag": "{% oops %}",
    "unknown filter": "{{ messages | oops }}",
    "mutation": "{{ messages.append(1) }}",
    "wrong type": "{{ messages + 1 }}",
    "division": "{{ 1 // 0 }}",
    "undefined attribute": "{{ nothing.a }}",
    "two blocks": "x{% generation %}a{{ bos_token }}{% endgeneration %}y"
    "{%- generation -%} b {%- endgeneration -%}",
    "block in a loop": "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% endfor %}",
    "block in a macro": "{% macro f(x) %}({% generation %}{{ x }}{% endgeneration %}){% endmacro %}"
    "{% for m in messages %}{{ f(m.content) }}{% endfor %}",
    "empty block": "a{% generation %}{% endgeneration %}b",
    "block without end": "a{% generation %}b",
}


def theirs(source: str, request: dict[str, Any]) -> dict[str, Any]:
    """transformers' text and spans, or what it raises."""
    try:
        texts, spans = chat_template_utils.render_jinja_template(
            conversations=[request["messages"]],
            tools=request["tools"] or None,
            chat_template=source,
            return_assistant_tokens_mask=request["marked"],
            add_generation_prompt=request["prompt"],
            **request["special"],
        )
    except template_child.TEMPLATE_FAULTS as error:
        return {"fault": type(error).__name__, "says": str(error)}
    return {"text": texts[0], "spans": spans[0] if request["marked"] else []}


def ours(source: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        text, spans = template_child._rendered(request, source)
    except template_child.TEMPLATE_FAULTS as error:
        return {"fault": type(error).__name__, "says": str(error)}
    return {"text": text, "spans": spans}


def requests(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], marked: bool
) -> list[dict[str, Any]]:
    """With and without the prompt, and with blocks marked where the template may have some."""
    ways = [{"prompt": prompt, "marked": False} for prompt in (False, True)]
    ways += [{"prompt": False, "marked": True}] if marked else []
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return [{"messages": messages, "tools": tools, "special": special, **way} for way in ways]


@pytest.mark.parametrize("name", ODD)
def test_odd_templates(name: str) -> None:
    for request in requests(TALK, [], "generation" in ODD[name]):
        assert ours(ODD[name], request) == theirs(ODD[name], request)


def test_every_template_that_ships_with_trl() -> None:
    rendered = 0
    for name in chat_templates.names():
        source = chat_templates.source(name)
        for case in chat_templates.CASES:
            talk = chat_templates.conversation(case)
            for request in requests(list(talk.messages), list(talk.tools), "generation" in source):
                expected = theirs(source, request)
                assert ours(source, request) == expected, (name, case)
                rendered += "text" in expected
    assert rendered > len(chat_templates.names())


def test_environments_offer_the_same() -> None:
    """What a later transformers gives to templates, or takes from them, must be followed."""
    mine = template_child._compiled("x")[0].environment
    other = chat_template_utils._compile_jinja_template("x").environment
    for offered in ("globals", "filters", "tests", "policies"):
        assert set(getattr(mine, offered)) == set(getattr(other, offered))
    for name, function in other.filters.items():
        if name != "tojson":
            assert mine.filters[name] is function
    for option in ("trim_blocks", "lstrip_blocks", "keep_trailing_newline", "autoescape"):
        assert getattr(mine, option) == getattr(other, option)
    assert type(mine) is type(other) and mine.undefined is other.undefined
    assert {"generation", "break", "continue"} <= {
        tag for one in mine.extensions.values() for tag in one.tags
    }
    assert len(mine.extensions) == len(other.extensions)
