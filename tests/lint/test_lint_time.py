"""The rules are timed on some rows, and taken to last in proportion to all."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from lorakit.base.load import load_tokenizer_of
from lorakit.data.contract import Finding
from lorakit.data.named_sets import prepare_named_sets
from lorakit.lint import lint_time
from lorakit.lint.facts import Facts
from lorakit.recipe import parse_recipe


def test_time_is_in_proportion_to_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"say {i}", "completion": f"{i}"}) for i in range(40)]
    rows.write_text("\n".join(lines) + "\n", "utf-8")
    recipe = parse_recipe({"base": {"model": "builtin"}, "data": {"train": str(rows)}})
    tokenizer, config = load_tokenizer_of("builtin")
    sets = prepare_named_sets(recipe, tokenizer, config, cache_dir=tmp_path / "cache")
    seen: list[int] = []

    def lint(facts: Facts) -> list[Finding]:
        train = facts.sets.train
        assert len(train.examples) == len(train.meanings) == len(train.repeats)
        seen.append(len(train.examples))
        time.sleep(0.01 * len(train.examples))
        return []

    monkeypatch.setattr(lint_time, "lint", lint)
    monkeypatch.setattr(lint_time, "MAX_TIMED", 10)
    seconds = lint_time.time_rules(recipe, sets, tokenizer, config)
    assert seen == [10] * 4
    assert 0.4 <= seconds < 4.0
