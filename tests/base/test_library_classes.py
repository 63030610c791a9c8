"""Classes that are told by name exist under that name."""

from __future__ import annotations

import importlib

import pytest
from torch import nn

from lorakit.base import library_classes
from lorakit.base.library_classes import class_name

NAMES = {
    key: value
    for key, value in vars(library_classes).items()
    if isinstance(value, str) and value.startswith("transformers.")
}


@pytest.mark.parametrize("constant", sorted(NAMES))
def test_a_name_is_that_of_a_class_of_the_installed_transformers(constant: str) -> None:
    module, _, leaf = NAMES[constant].rpartition(".")
    found = getattr(importlib.import_module(module), leaf)
    assert issubclass(found, nn.Module)
    assert class_name(found.__new__(found)) == NAMES[constant]


def test_a_subclass_is_another_class() -> None:
    class Linear(nn.Linear):
        pass

    assert class_name(Linear(1, 1)) != class_name(nn.Linear(1, 1))
    assert len(NAMES) >= 3
