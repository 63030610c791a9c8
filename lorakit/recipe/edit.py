"""Changing values in a recipe's text: every other character stays, comments and order included.

PyYAML says where each node begins and ends; the text between is replaced, or a line added.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lorakit.errors import RecipeError
from lorakit.files import write_atomically
from lorakit.recipe.read import check_values
from lorakit.recipe.text import RecipeLoader, dump_inline, parse_text, read_text

INDENT = "  "


def edit_text(text: str, changes: Mapping[str, Any], source: str) -> str:
    """The YAML `text` with values changed.

    Args:
        changes: {"section.key": plain value}; a key that is not there is added at the end of its
            section, a section at the end of the text.
        source: of messages.

    Raises:
        RecipeError: text that is no mapping, or a section that is written elsewhere (an alias, a
            merge key), which cannot be changed here without changing what else uses it.
    """
    for name, value in changes.items():
        text = _edited(text, name, value, source)
    _check(text, changes, source)
    return text


def rewrite_recipe(
    path: Path, changes: Mapping[str, Any], output: Path | None = None
) -> tuple[Path, Path | None]:
    """Change values in a recipe file.

    Args:
        changes: see `edit_text`.
        output: where the changed recipe goes; None: in the place of the old one, which is kept
            beside it as `*.bak`, or `*.bak1` and so on where older ones are kept.

    Returns:
        What was written, and where the old one is kept.

    Raises:
        RecipeError: see `edit_text`; or the changed recipe is none. Nothing was written.
    """
    old = read_text(path)
    new = edit_text(old, changes, str(path))
    values, places = parse_text(new, str(path))
    check_values(values, places, str(path))
    if output is not None:
        write_atomically(output, new.encode())
        return output, None
    kept = _unused(path)
    write_atomically(kept, old.encode())
    write_atomically(path, new.encode())
    return path, kept


def _unused(path: Path) -> Path:
    """Where to keep a file: nothing that was kept before is lost."""
    numbers = itertools.chain([""], itertools.count(1))
    places = (path.with_name(f"{path.name}.bak{number}") for number in numbers)
    return next(place for place in places if not os.path.lexists(place))


def _edited(text: str, name: str, value: Any, source: str) -> str:
    section, _, key = name.partition(".")
    root = _compose(text)
    written = dump_inline(value)
    if root is None:
        return f"{_ending(text)}{section}:\n{INDENT}{key}: {written}\n"
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{source}: a recipe is keys with values; this cannot be changed.")
    found = _entry(root, section)
    if found is None:
        if root.flow_style:
            return _added_in_braces(text, root, f"{section}: {{{key}: {written}}}")
        return f"{_ending(text)}{section}:\n{INDENT}{key}: {written}\n"
    section_key, body = found
    place = f"{source}:{section_key.start_mark.line + 1}"
    if body.start_mark.index < section_key.end_mark.index:
        raise RecipeError(
            f"{place}: section {section!r} is an alias of another one. Write it out to have it "
            "changed."
        )
    if not isinstance(body, yaml.MappingNode):
        if body.start_mark.index == body.end_mark.index or body.tag.endswith(":null"):
            block = f"\n{INDENT}{key}: {written}"
            return _replaced(text, section_key.end_mark.index + 1, body.end_mark.index, block)
        raise RecipeError(f"{place}: section {section!r} is not keys with values.")
    old = _entry(body, key)
    if old is not None:
        key_node, node = old
        if node.start_mark.index < key_node.end_mark.index:  # an alias: the anchor stays as it is
            line_end = _line_end(text, key_node.end_mark.index)
            return _replaced(text, key_node.end_mark.index + 1, line_end, f" {written}")
        begin, end = node.start_mark.index, _trimmed(text, node)
        if begin == end:  # `key:` with nothing behind it
            begin = end = key_node.end_mark.index + 1
            return _replaced(text, begin, end, f" {written}")
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            return _replaced(text, key_node.end_mark.index + 1, end, f" {written}")
        return _replaced(text, begin, end, written)
    if body.flow_style:
        return _added_in_braces(text, body, f"{key}: {written}")
    last_key, last = body.value[-1]
    indent = " " * body.value[0][0].start_mark.column
    after = max(_trimmed(text, last), last_key.end_mark.index)
    after = _line_end(text, after)
    return _replaced(text, after, after, f"\n{indent}{key}: {written}")


def _compose(text: str) -> yaml.Node | None:
    loader = RecipeLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _entry(node: yaml.MappingNode, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next((pair for pair in node.value if pair[0].value == key), None)


def _added_in_braces(text: str, node: yaml.MappingNode, entry: str) -> str:
    close = node.end_mark.index - 1
    before = text[:close].rstrip()
    comma = "" if not node.value or before.endswith(",") else ","
    return f"{before}{comma}{' ' * bool(node.value)}{entry}{text[close:]}"


def _trimmed(text: str, node: yaml.Node) -> int:
    """Where a node ends: of a block PyYAML gives the start of what follows, comments included."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return max(_trimmed(text, child) for child in _children(node))
    return (
        len(text[: node.end_mark.index].rstrip())
        if _is_block_scalar(node)
        else (node.end_mark.index)
    )


def _is_block_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")


def _children(node: yaml.CollectionNode) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value)


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found


def _ending(text: str) -> str:
    """The text, ready for another line."""
    return text if not text or text.endswith("\n") else f"{text}\n"


def _replaced(text: str, begin: int, end: int, new: str) -> str:
    return text[:begin] + new + text[end:]


def _check(text: str, changes: Mapping[str, Any], source: str) -> None:
    """What was written is read back."""
    values, _ = parse_text(text, source)
    for name, value in changes.items():
        section, _, key = name.partition(".")
        if values[section][key] != value:
            raise RecipeError(
                f"{source}: {name} could not be set to {value!r} in this way of writing YAML. "
                "Change it by hand."
            )
