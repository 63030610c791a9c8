"""How long the rules will take over the rows of a run: found on some of them."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lorakit.data.examples import some_examples
from lorakit.data.named_sets import NamedSets
from lorakit.data.prepare import Prepared
from lorakit.lint.facts import Facts
from lorakit.lint.hardware import hardware_of
from lorakit.lint.lint import lint
from lorakit.plan.libraries import MAX_ROWS_READ
from lorakit.recipe import Recipe
from lorakit.train.least_times import MIN_ROUNDS

# Rows of each set, evenly spread; all rules go over them four times.
MAX_TIMED = 200


def time_rules(
    recipe: Recipe, sets: NamedSets, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> float:
    """Seconds that the rules take over all rows that they look at, in proportion to some.

    Args:
        recipe, sets, tokenizer, config: see `Facts`.
    """
    kept = {id(one): one for one in sets.by_name().values()}
    some = {name: _some(one) for name, one in kept.items()}
    few = NamedSets(
        some[id(sets.train)],
        None if sets.validation is None else some[id(sets.validation)],
        {name: some[id(one)] for name, one in sets.evaluation.items()},
    )
    took = []
    for _ in range(1 + MIN_ROUNDS):  # the first time code is loaded, too
        began = time.perf_counter()
        lint(Facts(recipe, few, tokenizer, config, hardware_of(recipe.base)))
        took.append(time.perf_counter() - began)
    rows = sum(min(len(one.examples), MAX_ROWS_READ) for one in kept.values())
    timed = sum(len(one.examples) for one in some.values())
    first, again = took[0], min(took[1:])  # interruptions are not multiplied
    return max(0.0, first - again) + again * rows / timed


def _some(prepared: Prepared) -> Prepared:
    count = len(prepared.examples)
    rows = np.unique(np.linspace(0, count - 1, MAX_TIMED).astype(np.int64))
    return replace(
        prepared,
        examples=some_examples(prepared.examples, rows),
        repeats=prepared.repeats[rows],
        meanings=[prepared.meanings[row] for row in rows.tolist()],
    )
