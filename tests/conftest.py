"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests import tiny

pytest_plugins = ["tests.skips"]

SHARED_DATA = Path(
    os.environ.get("LORAKIT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data, models and adapters beside the checkout; tests that need them may skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama folder with tokenizer."""
    return tiny.folder(tmp_path_factory.mktemp("tiny") / "llama")
