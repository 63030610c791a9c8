"""Whether a chat template copies what messages say without looking at it.

Such a template writes the same around every text, so that the rendering of a conversation is the
masked one (`masking.py`) with the texts in the place of their markers. This is proved from its
source, which is parsed and never run: every expression is PLAIN (roles, counts, special tokens:
the same for real and masked messages), a message, the messages, or TEXT (what a message says, with
other text around it). TEXT may be written, trimmed, joined to other text, and asked whether it is
empty, which masking does not change. Whatever else is done with it ends the proof, and so does
whatever this page does not know.

It holds for messages of a role and a string as content, without tools.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from lorakit.data.text_flow import CONSTANT, SAYS, Expressions, Kind, LooksError, either


@lru_cache(maxsize=64)
def copies_text(source: str) -> bool:
    """Whether the template `source` surely never looks at what a message says."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols", _Generation])
    try:
        _Proof().check(environment.parse(source))
    except (LooksError, TemplateSyntaxError):
        return False
    except (RecursionError, ValueError):  # nested too deeply; a number of too many digits
        return False
    return True


class _Generation(Extension):
    """`{% generation %}` blocks, as what is in them."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Proof:
    """Follows every statement of a template until nothing new is learned of its variables."""

    def __init__(self) -> None:
        self._of = Expressions()

    def check(self, template: nodes.Template) -> None:
        known: dict[str, Kind] | None = None
        while known != self._of.assigned:
            known = dict(self._of.assigned)
            self._body(template.body)

    def _body(self, body: Iterable[nodes.Node]) -> None:
        for node in body:
            match node:
                case nodes.Output():
                    for part in node.nodes:
                        if not isinstance(part, nodes.TemplateData):
                            self._of.one_of(part, (*CONSTANT, *SAYS))
                case nodes.If():
                    self._if(node)
                case nodes.For():
                    self._for(node)
                case nodes.Assign():
                    self._assign(node.target, self._of.kind(node.node))
                case nodes.Break() | nodes.Continue():
                    pass
                case _:
                    raise LooksError(node)

    def _if(self, node: nodes.If) -> None:
        for branch in (node, *node.elif_):
            truth = self._of.truth(branch.test)
            if truth is not False:
                self._body(branch.body)
            if truth is True:
                return
        self._body(node.else_)

    def _for(self, node: nodes.For) -> None:
        over = self._of.one_of(node.iter, (*CONSTANT, Kind.MESSAGES))
        if node.recursive or (over is Kind.MESSAGES and not isinstance(node.target, nodes.Name)):
            raise LooksError(node)
        if over not in (Kind.ABSENT, Kind.NONE):
            names = [name.name for name in _names(node.target)]
            before = dict(self._of.looped)
            self._of.looped |= dict.fromkeys(
                names, Kind.MESSAGE if over is Kind.MESSAGES else Kind.PLAIN
            )
            if node.test is not None:
                self._of.truth(node.test)
            self._body(node.body)
            self._of.looped = before
        self._body(node.else_)

    def _assign(self, target: nodes.Node, kind: Kind) -> None:
        if not isinstance(target, nodes.Name):  # an attribute of a namespace, or several names
            if kind not in CONSTANT:
                raise LooksError(target)
            for name in _names(target):
                self._assign(name, Kind.PLAIN)
            return
        # Where it is asked for, it may not have been set: nothing is sure of it any more.
        kind = {Kind.CONTENT: Kind.TEXT, Kind.ABSENT: Kind.PLAIN, Kind.NONE: Kind.PLAIN}.get(
            kind, kind
        )
        self._of.assigned[target.name] = either(self._of.assigned.get(target.name, kind), kind)


def _names(target: nodes.Node) -> list[nodes.Name]:
    """The names of a target; an attribute of a namespace has none."""
    return [target] if isinstance(target, nodes.Name) else list(target.find_all(nodes.Name))
