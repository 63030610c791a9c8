"""What is found in a case that lies in a folder as its author would have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.base.from_recipe import load_tokenizer_of_base
from lorakit.data.contract import Finding
from lorakit.data.named_sets import prepare_named_sets
from lorakit.lint.facts import Facts
from lorakit.lint.lint import lint
from lorakit.recipe import load_recipe
from tests.lint.corpus.case import CPU


def findings_of(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Those of the data contract too; the recipe's paths are relative to it.

    Raises:
        DataError: rows that cannot be used.
    """
    monkeypatch.chdir(recipe.parent)
    read = load_recipe(recipe)
    tokenizer, config = load_tokenizer_of_base(read.base)
    sets = prepare_named_sets(read, tokenizer, config, cache_dir=recipe.parent / "tokens")
    return [*sets.findings(), *lint(Facts(read, sets, tokenizer, config, CPU))]
