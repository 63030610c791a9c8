"""data.json: the counts are those of the sets, the histogram loses nobody, examples are chosen."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.data.examples import Example, examples_in_memory
from lorakit.data.facts import (
    MAX_BINS,
    MAX_TOKENS_SHOWN,
    data_facts,
    length_histogram,
    shown_examples,
)
from lorakit.data.named_sets import prepare_named_sets
from lorakit.recipe import parse_recipe
from lorakit.report.data_files import DataFacts
from tests import tiny


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_a_histogram_counts_every_length_once(values: list[int]) -> None:
    lengths = np.array(values, dtype=np.int64)
    edges, counts = length_histogram(lengths)
    assert 1 <= len(counts) == len(edges) - 1 <= MAX_BINS
    assert edges[0] == 0 and edges[-2] < max(values) <= edges[-1]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        assert count == sum(low < value <= high for value in values)
    steps = {high - low for low, high in pairwise(edges)}
    assert len(steps) == 1 and str(steps.pop()).rstrip("0") in {"1", "2", "5"}


def examples_of(lengths: list[int]) -> Any:
    weights = [np.array([0.0] * (n - 1) + [1.0], np.float32) for n in lengths]
    return examples_in_memory(
        [Example(np.full(len(w), 7, np.int32), w) for w in weights], "lengths"
    )


@pytest.mark.parametrize(
    ("lengths", "chosen"),
    [
        (list(range(2, 103)), [10, 50, 90]),
        (list(range(102, 1, -1)), [90, 50, 10]),
        ([5, 5, 5], [0, 1, 2]),
        ([9], [0]),
        ([9, 4], [1, 0]),
    ],
)
def test_a_short_a_typical_and_a_long_example(lengths: list[int], chosen: list[int]) -> None:
    assert shown_examples(examples_of(lengths)) == chosen


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("facts")
    prompts = ["What is asthma? " * 3 * (n + 1) for n in range(30)]
    rows = [{"prompt": text, "completion": f"A disease, {len(text)}."} for text in prompts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = parse_recipe(
        {
            "base": {"model": "some/model"},
            "data": {
                "train": str(folder / "rows.jsonl"),
                "validation": 0.2,
                "max_length": 400,
                "max_dropped": 0.5,
            },
        }
    )
    tokenizer, config = tiny.tokenizer(), tiny.config(max_position_embeddings=512)
    sets = prepare_named_sets(recipe, tokenizer, config, cache_dir=folder / "cache")
    facts = data_facts(sets, tokenizer, sets.findings(), max_length=400)
    facts["expected"] = {
        name: (one.read, one.kept, one.dropped, int(one.examples.lengths.sum()))
        for name, one in sets.by_name().items()
    }
    facts["texts"] = {
        index: str(tokenizer.decode(sets.train.examples[index].input_ids))
        for index in range(len(sets.train.examples))
    }
    return facts


def test_counts_are_those_of_the_sets(facts: dict[str, Any]) -> None:
    assert set(facts["sets"]) == {"train", "validation", "in_domain"}
    for name, one in facts["sets"].items():
        told = (one["read"], one["kept"], one["dropped"], one["tokens"])
        assert told == facts["expected"][name]
        assert 0 < one["trained_tokens"] < one["tokens"]
        assert sum(one["lengths"]["counts"]) == one["kept"]
        assert one["longest"] <= one["max_length"] == 400
    assert facts["sets"]["train"]["dropped"] > 0
    assert any(one["id"] == "rows-too-long" for one in facts["findings"])


def test_examples_are_cut_around_where_training_begins(facts: dict[str, Any]) -> None:
    assert [one["set"] for one in facts["examples"]] == ["train"] * 3
    tokens = [one["tokens"] for one in facts["examples"]]
    assert tokens == sorted(tokens)
    assert tokens[-1] > MAX_TOKENS_SHOWN > tokens[0]
    for one in facts["examples"]:
        left_out = one["left_out"]["before"] + one["left_out"]["after"]
        assert left_out == max(0, one["tokens"] - MAX_TOKENS_SHOWN)
        trained = "".join(piece["text"] for piece in one["pieces"] if piece["trained"])
        assert trained.startswith("A disease, ")
        text = "".join(piece["text"] for piece in one["pieces"])
        assert text in facts["texts"][one["index"]]


def test_the_shape_is_the_one_the_report_reads(facts: dict[str, Any]) -> None:
    assert len(DataFacts.model_validate_json(json.dumps(facts)).sets) == 3
