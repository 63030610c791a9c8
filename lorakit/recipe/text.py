"""Recipe text: YAML to plain values with the line each value stands on, and back.

The loader follows YAML 1.2's core schema, so that `1e-4` is a number and `on`, `off`, `yes`, `no`
stay text (PyYAML's default is YAML 1.1). It is a subclass: PyYAML's own loaders stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lorakit.errors import RecipeError

MAX_RECIPE_BYTES = 1 << 20
MAX_RECIPE_ALIASES = 100
# Values once every alias is written out: ten nested aliases of ten would become 10^10.
MAX_RECIPE_NODES = 100_000

MERGE_TAG = "tag:yaml.org,2002:merge"

KeyPath = tuple[str | int, ...]


class RecipeLoader(yaml.SafeLoader):
    """Safe YAML with the 1.2 core schema, duplicate keys refused and aliases counted."""

    # A fresh table: SafeLoader's would bring YAML 1.1's booleans, octals, sexagesimals and dates.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._num_aliases += 1
            if self._num_aliases > MAX_RECIPE_ALIASES:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {MAX_RECIPE_ALIASES} aliases",
                    problem_mark=self.peek_event().start_mark,
                )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == MERGE_TAG:
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a plain text", problem_mark=key_node.start_mark
                )
            key = self.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is written twice, first in line {seen[key]}",
                    problem_mark=key_node.start_mark,
                )
            seen[key] = line
        return super().construct_mapping(node, deep=deep)

    def construct_core_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        try:
            return int(text, base)
        except ValueError as error:  # after `!!int`; also more than 4,300 digits
            raise _not_a("whole number of at most 4,300 digits", node) from error

    def construct_core_float(self, node: yaml.ScalarNode) -> float:
        text = self.construct_scalar(node).lower()
        try:
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError as error:  # after `!!float`
            raise _not_a("number", node) from error

    def construct_core_bool(self, node: yaml.ScalarNode) -> bool:
        text = self.construct_scalar(node).lower()
        if text not in {"true", "false"}:  # after `!!bool`
            raise _not_a("true or false", node)
        return bool(text == "true")


def _not_a(kind: str, node: yaml.ScalarNode) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(
        problem=f"{node.value[:40]!r} is no {kind}", problem_mark=node.start_mark
    )


def _core_schema() -> None:
    tag = "tag:yaml.org,2002:"
    # Not `!!timestamp`, `!!binary`, `!!set` and so on, which the core schema does not have.
    RecipeLoader.yaml_constructors = {
        name: yaml.SafeLoader.yaml_constructors[name]
        for name in (None, *(tag + kind for kind in ("map", "seq", "str", "null")))
    }
    number_starts = list("-+.0123456789")
    for name, pattern, starts in (
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", number_starts),
        (
            "float",
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            number_starts,
        ),
        ("merge", r"<<", ["<"]),
    ):
        RecipeLoader.add_implicit_resolver(tag + name, re.compile(f"^(?:{pattern})$"), starts)
    RecipeLoader.add_constructor(tag + "int", RecipeLoader.construct_core_int)
    RecipeLoader.add_constructor(tag + "float", RecipeLoader.construct_core_float)
    RecipeLoader.add_constructor(tag + "bool", RecipeLoader.construct_core_bool)


_core_schema()


def read_text(path: Path) -> str:
    """The text of a recipe file; RecipeError when it cannot be one."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise RecipeError(
            f"recipe {str(path)!r}: {found}. Give the path of a YAML recipe; "
            f"`lorakit new recipe.yaml` writes one."
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise RecipeError(
            f"recipe {str(path)!r} cannot be read: {error.strerror}. Check its permissions."
        ) from error
    if len(content) > MAX_RECIPE_BYTES:
        raise RecipeError(
            f"recipe {str(path)!r} is larger than {MAX_RECIPE_BYTES} bytes, the most a recipe may "
            "have. Is it a data file? Name it in `data.train` instead."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(
            f"{path}:{line}: invalid UTF-8 (byte {content[error.start]:#04x}). "
            "A recipe is UTF-8 text; save the file as UTF-8."
        ) from error


def parse_text(text: str, source: str) -> tuple[Any, dict[KeyPath, str]]:
    """The values of a YAML text, and the place (`source:line`) of every key in it.

    Raises:
        RecipeError: text that is not YAML, a duplicate key, too many aliases or too deep nesting.
    """
    loader: RecipeLoader | None = None
    try:
        loader = RecipeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _check_size(node, {}, source)
        places: dict[KeyPath, str] = {(): f"{source}:{node.start_mark.line + 1}"}
        _collect_places(node, (), source, places)
        return loader.construct_document(node), places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        raise RecipeError(
            f"{place}: not valid YAML here: {error.problem}. Fix that line."
        ) from error
    except yaml.YAMLError as error:  # ReaderError: a character that YAML does not allow
        raise RecipeError(f"{source}: not valid YAML: {error}. Remove that character.") from error
    except RecursionError as error:
        raise RecipeError(
            f"{source}: nested too deeply; a recipe has sections with keys in them."
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def _check_size(node: yaml.Node, sizes: dict[int, int], source: str) -> int:
    """Nodes under `node` with aliases written out; each distinct node is visited once."""
    place = f"{source}:{node.start_mark.line + 1}"
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise RecipeError(f"{place}: an alias refers to the value it stands in. Remove it.")
        return sizes[id(node)]
    sizes[id(node)] = 0
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_check_size(child, sizes, source) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_check_size(child, sizes, source) for pair in node.value for child in pair)
    if total > MAX_RECIPE_NODES:
        raise RecipeError(
            f"{place}: more than {MAX_RECIPE_NODES} values once its aliases are written out. "
            "Remove aliases."
        )
    sizes[id(node)] = total
    return total


def _collect_places(
    node: yaml.Node, path: KeyPath, source: str, places: dict[KeyPath, str]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key_path = (*path, key_node.value) if isinstance(key_node.value, str) else path
            places[key_path] = f"{source}:{key_node.start_mark.line + 1}"
            _collect_places(value_node, key_path, source, places)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            places[(*path, index)] = f"{source}:{child.start_mark.line + 1}"
            _collect_places(child, (*path, index), source, places)


def apply_override(values: dict[Any, Any], override: str, places: dict[KeyPath, str]) -> None:
    """Set one `section.key=value` in `values`; the value is YAML.

    Raises:
        RecipeError: no `=`, a value that is not YAML, or a path through a value that has no keys.
            Unknown keys are found afterwards, with those of the file.
    """
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    place = f"--set {override}"
    if not equals or not all(keys):
        raise RecipeError(
            f"{place!r} is not of the form section.key=value. Example: --set adapter.r=32"
        )
    value, _ = parse_text(text, place)
    parent: Any = values
    path: KeyPath = ()
    for depth, key in enumerate(keys):
        index = _child(parent, key, path, place)
        path = (*path, index)
        if depth == len(keys) - 1:
            parent[index] = value
            break
        if isinstance(parent, dict) and parent.get(index) is None:
            parent[index] = {}
        parent = parent[index]
    for below in [known for known in places if known[: len(path)] == path]:
        del places[below]
    places[path] = place


def _child(parent: Any, key: str, path: KeyPath, place: str) -> str | int:
    """`key` as a key of `parent`: text for a mapping, a number for a list that is long enough."""
    if isinstance(parent, dict):
        return key
    parent_name = ".".join(map(str, path))
    if isinstance(parent, list):
        if key.isdecimal() and int(key) < len(parent):
            return int(key)
        raise RecipeError(
            f"{place}: {parent_name} is a list of {len(parent)}, {key!r} is not in it. "
            f"Possible: 0 to {len(parent) - 1}."
        )
    raise RecipeError(
        f"{place}: {parent_name} is {parent!r}, which has no keys. Set {parent_name} as a whole."
    )


class _RecipeDumper(yaml.SafeDumper):
    """Writes texts that our loader would read as something else in quotes."""

    yaml_implicit_resolvers = RecipeLoader.yaml_implicit_resolvers


def dump_text(values: dict[str, Any]) -> str:
    """YAML of plain values, keys in the given order, which `parse_text` reads back unchanged."""
    return yaml.dump(values, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, width=100)


def dump_inline(value: Any) -> str:
    """YAML of one plain value in one line, as it may stand behind a key."""
    text = yaml.dump(
        {"value": value},
        Dumper=_RecipeDumper,
        default_flow_style=True,
        allow_unicode=True,
        width=10**6,
    )
    return text.strip().removeprefix("{value: ").removesuffix("}")
