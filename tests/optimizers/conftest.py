"""Fixtures of the optimizers' room."""

from __future__ import annotations

import pytest

from lorakit.optimizers import layout


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 256 elements: a small model has many."""
    monkeypatch.setattr(layout, "PAGE_ELEMENTS", {"cpu": (256, 256), "cuda": (256, 256)})
