"""Whether a class of transformers computes what another does, told by their source.

transformers copies code between families: most of its RMSNorms, MLPs and attentions are Llama's
under another name. A fast module replaces exactly those; a family that differs in one line, or a
version of transformers that changes one, keeps its own module.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any


def same_forward(one: type, other: type) -> bool:
    """Whether both classes have the same `forward`, annotations and docstring aside, and the
    functions of their own modules that it calls are the same too."""
    return _same_function(vars(one).get("forward"), vars(other).get("forward"))


def _same_function(one: Any, other: Any) -> bool:
    if one is other:
        return one is not None
    if not (inspect.isfunction(one) and inspect.isfunction(other)):
        return False
    code = _code(one)
    if code is None or code != _code(other):
        return False
    return all(
        _same_global(one.__globals__[name], other.__globals__[name])
        for name in one.__code__.co_names
        if name in one.__globals__ and name in other.__globals__
    )


def _same_global(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return _same_function(inspect.unwrap(one), inspect.unwrap(other)) if callable(one) else False


@cache
def _code(function: Callable[..., Any]) -> str | None:
    """The function's arguments and body; None where the source is not there to be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return None
    (definition,) = tree.body
    if not isinstance(definition, ast.FunctionDef):
        return None
    arguments = definition.args
    for argument in (
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        *filter(None, (arguments.vararg, arguments.kwarg)),
    ):
        argument.annotation = None
    body = [_without_annotation(statement) for statement in definition.body]
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return ast.dump(arguments) + "".join(ast.dump(statement) for statement in body)


def _without_annotation(statement: ast.stmt) -> ast.stmt:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return ast.Assign(targets=[statement.target], value=statement.value)
    return statement
