"""What the expressions of a chat template make of what messages say (see `verbatim.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from jinja2 import nodes


class Kind(Enum):
    """What an expression stands for."""

    PLAIN = "does not depend on what messages say"
    ABSENT = "undefined: a key that the messages do not have"
    NONE = "None: the tools"
    CONTENT = "the content of a message, a string"
    TEXT = "made of contents by joining and trimming, or PLAIN"
    MESSAGE = "a message"
    MESSAGES = "a list of messages"


class LooksError(Exception):
    """The template may look at what a message says."""


PLAIN, ABSENT, NONE, CONTENT, TEXT, MESSAGE, MESSAGES = Kind
CONSTANT = (PLAIN, ABSENT, NONE)
SAYS = (CONTENT, TEXT)
_GIVEN = {"messages": MESSAGES, "tools": NONE, "documents": NONE}
_MESSAGE_KEYS = {"role": PLAIN, "content": CONTENT}
_TRIMS = ("trim", "strip", "lstrip", "rstrip")
# What is asked of a loop: `previtem`, `nextitem` and `changed` are of messages.
_OF_LOOPS = ("index", "index0", "first", "last", "length", "revindex", "revindex0")
# Values that change from one rendering to the next, or that lead to all others.
_FICKLE = frozenset(
    ["lipsum", "strftime_now", "cycler", "joiner", "caller", "self", "varargs", "kwargs", "loop"]
)
_FUNCTIONS = ("raise_exception", "namespace", "range", "dict")
_FILTERS = frozenset(
    [
        "capitalize",
        "count",
        "default",
        "first",
        "int",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "replace",
        "string",
        "title",
        "tojson",
        "trim",
        "upper",
    ]
)
# Tests whose outcome is the same for every string.
_OF_STRINGS = {"string": True, "defined": True, "iterable": True, "sequence": True}
_OF_STRINGS |= dict.fromkeys(("undefined", "none", "mapping", "number", "boolean"), False)
_OUTCOMES = {
    CONTENT: _OF_STRINGS,
    ABSENT: {"defined": False, "undefined": True, "none": False, "string": False, "mapping": False},
    NONE: {"defined": True, "undefined": False, "none": True, "string": False, "mapping": False},
}
_TESTS = (*_OF_STRINGS, "true", "false", "integer", "even", "odd", "equalto", "eq", "in")


class Expressions:
    """Tells of the expressions of one template what they stand for.

    Attributes:
        assigned: variables by `{% set %}`, wherever it stands.
        looped: variables of the loops around.
    """

    def __init__(self) -> None:
        self.assigned: dict[str, Kind] = {}
        self.looped: dict[str, Kind] = {}

    def one_of(self, node: nodes.Node, allowed: Iterable[Kind]) -> Kind:
        """The kind of an expression, which must be one of those allowed."""
        kind = self.kind(node)
        if kind not in allowed:
            raise LooksError(node)
        return kind

    def constant(self, parts: Iterable[nodes.Node | None]) -> Kind:
        """PLAIN, if no part depends on what messages say."""
        for part in parts:
            if part is not None:
                self.one_of(part, CONSTANT)
        return PLAIN

    def truth(self, node: nodes.Node) -> bool | None:
        """Whether a test succeeds, if that is the same for all messages."""
        if isinstance(node, nodes.Not):
            truth = self.truth(node.node)
            return None if truth is None else not truth
        if isinstance(node, nodes.And | nodes.Or):
            decides = isinstance(node, nodes.Or)
            left = self.truth(node.left)
            if left is decides:
                return decides
            right = self.truth(node.right)
            return right if left is not None or right is decides else None
        if isinstance(node, nodes.Test):
            return self._test(node)
        if isinstance(node, nodes.Compare):
            return self._compare(node)
        return False if self.kind(node) in (ABSENT, NONE) else None

    def kind(self, node: nodes.Node) -> Kind:
        """What an expression stands for; LooksError if it may look at what a message says."""
        match node:
            case nodes.Const():
                return PLAIN
            case nodes.Name():
                return self._name(node.name)
            case nodes.Getattr(node=nodes.Name(name="loop")) if node.attr in _OF_LOOPS:
                if "loop" in self.assigned or "loop" in self.looped:
                    raise LooksError(node)
                return PLAIN
            case nodes.Getattr():
                return self._item(self.kind(node.node), node.attr)
            case nodes.Getitem():
                return self._subscript(node)
            case nodes.Call():
                return self._call(node)
            case nodes.Filter():
                return self._filter(node)
            case nodes.Test() | nodes.Compare() | nodes.Not():
                self.truth(node)
                return PLAIN
            case nodes.And() | nodes.Or():
                return self._junction(node)
            case nodes.CondExpr():
                return self._conditional(node)
            case nodes.Concat() | nodes.Add():
                parts = node.nodes if isinstance(node, nodes.Concat) else (node.left, node.right)
                kinds = [self.one_of(part, (*CONSTANT, *SAYS)) for part in parts]
                return TEXT if set(kinds) & set(SAYS) else PLAIN
            case nodes.BinExpr() | nodes.UnaryExpr() | nodes.List() | nodes.Tuple():
                return self.constant(node.iter_child_nodes())
            case nodes.Dict():
                return self.constant(part for pair in node.items for part in (pair.key, pair.value))
            case _:
                raise LooksError(node)

    def _name(self, name: str) -> Kind:
        if name in _FICKLE or (name in self.looped and name in self.assigned):
            raise LooksError(name)
        if name in self.looped:
            return self.looped[name]
        given = _GIVEN.get(name)
        if name not in self.assigned:
            return given or PLAIN
        return self.assigned[name] if given is None else either(given, self.assigned[name])

    def _item(self, kind: Kind, key: str) -> Kind:
        if kind is MESSAGE and not hasattr(dict, key):
            return _MESSAGE_KEYS.get(key, ABSENT)
        if kind is PLAIN:
            return PLAIN
        raise LooksError(key)

    def _subscript(self, node: nodes.Getitem) -> Kind:
        kind, key = self.kind(node.node), node.arg
        if isinstance(key, nodes.Slice):
            self.constant((key.start, key.stop, key.step))
            if kind in (PLAIN, MESSAGES):
                return kind
        elif isinstance(key, nodes.Const) and isinstance(key.value, str):
            return self._item(kind, key.value)
        elif kind in (PLAIN, MESSAGES):
            self.constant([key])
            return MESSAGE if kind is MESSAGES else PLAIN
        raise LooksError(node)

    def _call(self, node: nodes.Call) -> Kind:
        given = [*node.args, *(pair.value for pair in node.kwargs)]
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise LooksError(node)
        called = node.node
        if isinstance(called, nodes.Name) and called.name in _FUNCTIONS:
            if called.name in self.assigned or called.name in self.looped:
                raise LooksError(node)
            return self.constant(given)
        if not isinstance(called, nodes.Getattr):
            raise LooksError(node)
        kind = self.kind(called.node)
        if kind in SAYS and called.attr in _TRIMS and not given:
            return TEXT
        if kind is MESSAGE and called.attr == "get" and given:
            key, *default = given
            self.constant(default)
            if isinstance(key, nodes.Const):
                return _MESSAGE_KEYS.get(key.value, PLAIN)
        if kind is PLAIN:
            return self.constant(given)
        raise LooksError(node)

    def _filter(self, node: nodes.Filter) -> Kind:
        given = [*node.args, *(pair.value for pair in node.kwargs)]
        if node.name not in _FILTERS or node.node is None or node.dyn_args or node.dyn_kwargs:
            raise LooksError(node)
        kind = self.kind(node.node)
        self.constant(given)
        if kind in CONSTANT:
            return PLAIN
        kept = ("default",) if given else ("default", "trim", "string")
        if kind in SAYS and node.name in kept:
            return TEXT
        if kind is MESSAGES and node.name in ("length", "count"):
            return PLAIN
        raise LooksError(node)

    def _test(self, node: nodes.Test) -> bool | None:
        if node.name not in _TESTS or node.dyn_args or node.dyn_kwargs:
            raise LooksError(node)
        kind = self.kind(node.node)
        self.constant([*node.args, *(pair.value for pair in node.kwargs)])
        if kind not in CONSTANT and node.name not in _OF_STRINGS:
            raise LooksError(node)
        return _OUTCOMES.get(kind, {}).get(node.name)

    def _compare(self, node: nodes.Compare) -> bool | None:
        operand = node.ops[0]
        if len(node.ops) == 1 and isinstance(node.expr, nodes.Const):  # `'role' in message`
            if operand.op in ("in", "notin") and self.kind(operand.expr) is MESSAGE:
                return (node.expr.value in _MESSAGE_KEYS) == (operand.op == "in")
        elif len(node.ops) == 1 and isinstance(operand.expr, nodes.Const):  # whether it is empty
            asks = operand.op in ("eq", "ne") and operand.expr.value in ("", None)
            if asks and self.kind(node.expr) in SAYS:
                return None
        self.constant([node.expr, *(operand.expr for operand in node.ops)])
        return None

    def _junction(self, node: nodes.And | nodes.Or) -> Kind:
        left = self.truth(node.left)
        if left is not None and left is isinstance(node, nodes.And):
            return self.kind(node.right)
        if left is not None:
            return self.kind(node.left)
        return either(self.kind(node.left), self.kind(node.right))

    def _conditional(self, node: nodes.CondExpr) -> Kind:
        truth = self.truth(node.test)
        kinds = [] if truth is False else [self.kind(node.expr1)]
        if truth is not True:
            kinds.append(PLAIN if node.expr2 is None else self.kind(node.expr2))
        return kinds[0] if len(kinds) == 1 else either(*kinds)


def either(one: Kind, other: Kind) -> Kind:
    """What a value is that is either of two."""
    kinds = {one, other}
    if len(kinds) == 1:
        return one
    if kinds <= set(CONSTANT):
        return PLAIN
    if kinds <= {*CONSTANT, *SAYS}:
        return TEXT
    raise LooksError(kinds)
