"""What rows take while a run goes on: little, and known."""

from __future__ import annotations

import gc
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import lorakit
from lorakit.base.from_recipe import load_tokenizer_of_base
from lorakit.data import row_set
from lorakit.data.examples import Example
from lorakit.data.meanings import HANDLE_BYTES, Meanings
from lorakit.data.named_sets import NamedSets, prepare_named_sets
from lorakit.data.reading import DataRules, read_meanings
from lorakit.data.store import write_store
from lorakit.plan.libraries import left_by_rows
from lorakit.plan.plan import plan
from lorakit.plan.rows import Sets
from lorakit.recipe import Recipe

MIB = 1 << 20


def written(path: Path, count: int) -> Path:
    rows = [{"prompt": f"What is {n} and one?", "completion": f"{n + 1}."} for n in range(count)]
    if path.suffix == ".csv":
        lines = ["prompt,completion", *(f"{row['prompt']},{row['completion']}" for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe_of(path: Path) -> Recipe:
    base = {"model": "builtin", "device": "cpu"}
    data = {"train": str(path), "validation": 0.01}
    return lorakit.parse_recipe({"base": base, "data": data})


def prepared(recipe: Recipe, cache: Path) -> NamedSets:
    tokenizer, config = load_tokenizer_of_base(recipe.base)
    return prepare_named_sets(recipe, tokenizer, config, cache_dir=cache)


def test_handles_made_when_asked_for_are_those_that_were_given(tmp_path: Path) -> None:
    both = [written(tmp_path / name, 20) for name in ("a.jsonl", "b.jsonl")]
    given = read_meanings([str(path) for path in both], DataRules())[::-3]
    for one, number in zip(given, range(len(given)), strict=True):
        one.weight = 1 + number / 4
    kept = Meanings(given)
    assert len(kept) == len(given) > 10
    for made in (list(kept), kept[:], [kept[i - len(kept)] for i in range(len(kept))]):
        for one, other in zip(made, given, strict=True):
            assert one.location == other.location
            assert one.row == other.row
            assert one.content_hash == other.content_hash
            assert one.weight == other.weight
    with pytest.raises(IndexError):
        kept[len(kept)]


def test_tokens_that_were_looked_at_are_not_held(tmp_path: Path) -> None:
    """32 MiB of tokens and weights, all of them read."""
    ids, weights = np.arange(4096, dtype=np.int32), np.ones(4096, dtype=np.float32)
    store = write_store(tmp_path, "key", [Example(ids, weights)] * 1024, range(1024), {})
    before = psutil.Process().memory_info().rss
    for index in range(len(store)):
        example = store[index]
        assert example.input_ids[-1] == 4095 and example.loss_weights.flags.writeable
    assert psutil.Process().memory_info().rss - before < 8 * MIB
    assert store.held_bytes < MIB // 8


def test_a_plain_list_of_rows_counts_too(tmp_path: Path) -> None:
    """Whoever makes a set by hand need not wrap its rows: they are held all the same."""
    sets = prepared(recipe_of(written(tmp_path / "rows.jsonl", 200)), tmp_path / "cache")
    listed = [replace(one, meanings=list(one.meanings)) for one in (sets.train, sets.validation)]
    plain = NamedSets(listed[0], listed[1], {"in_domain": listed[1]})
    rows = {id(rows): rows.held_bytes for rows in sets.train.meanings.row_sets}  # type: ignore[attr-defined]
    assert sum(rows.values()) > 0
    assert sets.held_bytes > sum(rows.values())
    handles = HANDLE_BYTES * sum(len(one.meanings) for one in listed)
    compact = sum(one.meanings.held_bytes for one in (sets.train, sets.validation))  # type: ignore[union-attr]
    assert plain.held_bytes == sets.held_bytes - compact + handles


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("fits", [True, False])
def test_what_rows_are_said_to_hold_is_what_they_hold(
    suffix: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that can be read again go, whether they were held at first or too many."""
    monkeypatch.setattr(row_set, "KEPT_BYTES", row_set.KEPT_BYTES if fits else 0)
    stays = suffix == ".csv"
    prepared(recipe_of(written(tmp_path / f"few{suffix}", 10)), tmp_path / "cache")  # what stays
    recipe = recipe_of(written(tmp_path / f"rows{suffix}", 4000))
    gc.collect()
    tracemalloc.start()
    try:
        sets = prepared(recipe, tmp_path / "cache")
        before = [one.row for one in sets.train.meanings[:50]]
        sets.forget_rows()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    trifles = MIB // 2  # the tokenizer that was loaded for them, in Python
    assert sets.held_bytes == pytest.approx(held, rel=0.3, abs=trifles)
    assert (sets.held_bytes > 4 * MIB) == stays
    assert [one.row for one in sets.train.meanings[:50]] == before
    planned = plan(recipe, sets=Sets.of(sets)).peaks
    without = plan(recipe, sets=Sets(sets.train.examples, sets.train.repeats)).peaks
    left = left_by_rows(len(one.examples) for one in (sets.train, sets.validation))  # type: ignore[union-attr]
    assert planned.rows == sets.held_bytes + left > sets.held_bytes
    assert without.rows == 0
    more = planned.phases["optimizer_step"] - without.phases["optimizer_step"]
    assert more == planned.rows
    assert planned.phases["loading"] == without.phases["loading"]
