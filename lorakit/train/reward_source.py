"""Where a reward function of one's own stands, and how it is called, read without running it."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.errors import InputError


@dataclass(frozen=True)
class Signature:
    """How a function is called.

    Attributes:
        takes: names of arguments; needs: of those without a default.
        takes_all: any other name too (`**kwargs`).
        by_place: arguments that cannot be given by name.
    """

    takes: Sequence[str]
    needs: Sequence[str]
    takes_all: bool
    by_place: Sequence[str]


def find_function(name: str) -> tuple[str, str]:
    """The absolute path or the module of a reward, and its function. None of it is run.

    Raises:
        InputError: there is no such file, function or package.
    """
    where, _, function = name.rpartition(":")
    told = f"reward {name!r}"
    if not where.endswith(".py"):
        if _top_spec(where) is None:
            raise InputError(
                f"{told}: there is no package {where.partition('.')[0]!r} here; possible: one that "
                "is installed, or a file, path.py:function. Install it, or name the file."
            )
        return where, function
    path = Path(where).expanduser()
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{told}: {str(path)!r} cannot be read as Python: {error}. Mend it."
        ) from error
    defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assigned = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    imported = {
        a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names
    }
    if function not in {*defined, *assigned, *imported}:
        raise InputError(
            f"{told}: {str(path)!r} defines no function {function!r}; possible: "
            f"{', '.join(defined) or 'none, it defines no function'}. Name one of them."
        )
    return str(path.absolute()), function


def signature_in(where: str, function: str) -> Signature | None:
    """How a function is called, by the text of its file.

    Args:
        where, function: see `find_function`.

    Returns:
        None where the text does not tell: there is no such file, or the function is defined
        otherwise than by one plain `def` (a decorator, an import, a second definition).
    """
    path = Path(where) if where.endswith(".py") else _file_of(where)
    if path is None:
        return None
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError):
        return None  # what runs it says so
    binding = [node for node in ast.walk(tree) if function in _bound_by(node)]
    if len(binding) != 1 or binding[0] not in tree.body:
        return None
    found = binding[0]
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) or found.decorator_list:
        return None
    return _signature(found.args)


def _signature(given: ast.arguments) -> Signature:
    by_name = [*given.args, *given.kwonlyargs]
    # Defaults belong to the last ones; those that can be given by place alone come first.
    num_bare = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    bare = given.args[: max(0, num_bare - len(given.posonlyargs))]
    bare += [
        one for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value is None
    ]
    return Signature(
        takes=[one.arg for one in by_name],
        needs=[one.arg for one in bare],
        takes_all=given.kwarg is not None,
        by_place=[one.arg for one in given.posonlyargs],
    )


def _bound_by(node: ast.AST) -> list[str]:
    """Names that a statement or an expression gives a value, in whatever scope."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return [node.id]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(one.asname or one.name).partition(".")[0] for one in node.names]
    return []


def _top_spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Of the package that a module is in; only it can be found without running anything."""
    try:
        return importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None


def _file_of(module: str) -> Path | None:
    """A module's file; None where it has none, as what is built in."""
    top, (_, *parts) = _top_spec(module), module.split(".")
    if top is None:
        return None
    if not parts:
        return Path(top.origin) if top.origin is not None and top.origin.endswith(".py") else None
    for folder in top.submodule_search_locations or ():
        place = Path(folder, *parts)
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path
    return None
