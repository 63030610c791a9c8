"""What the base's tests share: each tiny family is built and saved once, and only read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from tests import families


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The saved tiny model of a family; do not change it."""

    @functools.cache
    def saved(model_type: str) -> Path:
        return families.folder(tmp_path_factory.mktemp(model_type), model_type)

    return saved


@pytest.fixture(scope="session")
def family_model() -> Callable[[str], PreTrainedModel]:
    """The tiny model of a family; do not change it."""
    return functools.cache(families.build)
