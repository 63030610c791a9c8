"""Rooms import in one direction, public names exist, nothing heavy loads before it is used."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lorakit

PACKAGE = Path(lorakit.__file__).parent


def levels() -> dict[str, int]:
    """{room: its place in the order that docs/architecture.md states}."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    order = re.search(r"`(errors < [^`]*)`", text)
    assert order is not None
    places = enumerate(order[1].split(" < "))
    return {room: place for place, rooms in places for room in rooms.replace(",", " ").split()}


LEVELS = levels()


def room_of(path: Path) -> str:
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if name == "__main__" else name


def imported_rooms(path: Path) -> Iterator[tuple[str, int]]:
    """(room, line) of every import of lorakit in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("lorakit."):
                yield name.split(".")[1], node.lineno


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in LEVELS, f"{path}: a room that docs/architecture.md does not know"
    for other, line in imported_rooms(path):
        assert other in LEVELS, f"{path}:{line} imports {other}: import from the name's own module"
        earlier = LEVELS[other] < LEVELS[room]
        assert other == room or earlier, f"{path}:{line}: {room} imports {other}"


def test_every_room_of_the_docs_exists() -> None:
    existing = {room_of(path) for path in SOURCES}
    assert set(LEVELS) == existing


def test_exported_members() -> None:
    assert lorakit.__all__ == sorted(lorakit.__all__)
    for name in lorakit.__all__:
        assert getattr(lorakit, name) is not None
    assert callable(lorakit.finetune)  # not the module of that name
    importlib.import_module("lorakit.finetune")
    assert callable(lorakit.finetune)
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        lorakit.fine_tune  # noqa: B018


HEAVY = ("torch", "transformers", "datasets", "numpy", "matplotlib", "peft", "trl", "bitsandbytes")


@pytest.mark.parametrize(
    "program",
    [
        "import lorakit; lorakit.LoraConfig; lorakit.load_recipe",
        "from lorakit.cli import main; assert main(['--help']) == 0",
        "from lorakit.cli import main; assert main(['train', '--help']) == 0",
        "from lorakit.cli import main; assert main(['new', '--schema']) == 0",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(program: str) -> None:
    check = (
        f"import sys; loaded = [n for n in {HEAVY} if n in sys.modules]; assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{check}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("peer", ["peft", "trl", "bitsandbytes"])
def test_peers_are_never_imported(peer: str) -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [n for n in names if n.split(".")[0] == peer], f"{path}:{node.lineno}"
