"""What rows are for is said in one place, and by terminal and pages alike."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import pytest

import lorakit
from lorakit.data import row_use
from lorakit.data.row_use import ASKED, TRAINED, RowUse

PACKAGE = Path(lorakit.__file__).parent
# Shorter ones are words that others use too.
LONG = 20


@pytest.mark.parametrize("use", [ASKED, TRAINED], ids=lambda use: use.title)
def test_its_words_stand_nowhere_else(use: RowUse) -> None:
    words = [text for text in astuple(use) if isinstance(text, str) and len(text) > LONG]
    assert len(words) >= 2
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".jinja")]
    others = [path for path in files if path != Path(row_use.__file__)]
    assert len(others) == len(files) - 1
    for path in others:
        text = path.read_text(encoding="utf-8")
        assert not [one for one in words if one in text], path
