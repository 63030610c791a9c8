"""The rows that a plan counts: those of a recipe, as far as they are here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lorakit.base import hub
from lorakit.base.from_recipe import load_tokenizer_of_base
from lorakit.base.tokenizer import TOKENIZER_FILES
from lorakit.data.examples import ExampleSet, some_examples
from lorakit.data.named_sets import (
    NamedSets,
    parts_of,
    prepare_named_sets,
    specs_of,
    token_cache,
    training_rules,
)
from lorakit.data.prepare import Prepared, prepare_meanings
from lorakit.data.reading import read_meanings
from lorakit.errors import DataError
from lorakit.recipe import Recipe, SourceList
from lorakit.recipe.builtin_names import is_builtin_data
from lorakit.train.worst import Largest


@dataclass(frozen=True)
class Sets:
    """The examples of a run.

    Attributes:
        train, repeats: to train on, and how often each is seen in an epoch.
        validation: measured between the steps.
        evaluation: {name: measured before and after}.
        named: what they were made of; None: only the examples are known.
        tokenizer: that they were made with.
        largest: the largest micro-batches of a run, by how it lays its rows out; see `worst.py`.
        has_held_out: False: the sets to measure on are not here, and may be named all the same.
    """

    train: ExampleSet
    repeats: np.ndarray
    validation: ExampleSet | None = None
    evaluation: Mapping[str, ExampleSet] = field(default_factory=dict)
    has_held_out: bool = True
    named: NamedSets | None = field(default=None, repr=False)
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)
    largest: dict[tuple[int | bool, ...], Largest] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @staticmethod
    def of(named: NamedSets, tokenizer: PreTrainedTokenizerBase | None = None) -> Sets:
        """Those of a recipe."""
        held_out = named.validation
        return Sets(
            named.train.examples,
            named.train.repeats,
            None if held_out is None else held_out.examples,
            {name: one.examples for name, one in named.evaluation.items()},
            named=named,
            tokenizer=tokenizer,
        )


def up_to_length(sets: Sets, limit: int) -> Sets:
    """The sets without examples of more than `limit` tokens."""
    kept = np.flatnonzero(sets.train.lengths <= limit)
    held_out = {name: _up_to(examples, limit) for name, examples in sets.evaluation.items()}
    return replace(
        sets,
        train=some_examples(sets.train, kept),
        repeats=sets.repeats[kept],
        validation=None if sets.validation is None else _up_to(sets.validation, limit),
        evaluation={name: one for name, one in held_out.items() if one is not None},
    )


def _up_to(examples: ExampleSet, limit: int) -> ExampleSet | None:
    """None: no example is so short."""
    kept = np.flatnonzero(examples.lengths <= limit)
    return some_examples(examples, kept) if len(kept) else None


def read_sets(recipe: Recipe, config: PretrainedConfig) -> tuple[Sets | None, str | None]:
    """The sets of a recipe; the training set alone or none of them, and what is not here yet.

    Memory can be planned without rows. Only absent data or an absent tokenizer are let pass: all
    else would stop `lorakit train` too.
    """
    held_out = [getattr(recipe.evaluate, name) for name in ("in_domain", "out_of_domain")]
    held_out += [recipe.evaluate.retention]
    if not isinstance(recipe.data.validation, float):
        held_out.append(recipe.data.validation)
    absent = [path for sources in held_out if sources is not None for path in _absent(sources)]
    if absent or _absent(recipe.data.train) or not _has_tokenizer(recipe):
        prepared, problem = _training_set(recipe, config)
        if prepared is None:
            return None, f"steps and tokens are not known: {problem}"
        if absent:
            missing = f"validation and evaluation are not in the time: {absent[0]!r} is not here"
            return Sets(prepared.examples, prepared.repeats, has_held_out=False), missing
    tokenizer, _ = load_tokenizer_of_base(recipe.base)
    return Sets.of(prepare_named_sets(recipe, tokenizer, config), tokenizer), None


def _training_set(recipe: Recipe, config: PretrainedConfig) -> tuple[Prepared | None, str | None]:
    """The training set, or which file of it is not here yet."""
    rules = training_rules(recipe, config)
    specs = specs_of(recipe.data.train)
    absent = _absent(recipe.data.train)
    try:
        meanings = read_meanings(specs, rules, cache_dir=token_cache())
    except DataError as error:
        if not absent:
            raise
        return None, str(error)
    if not _has_tokenizer(recipe):
        return None, f"{str(hub.local_path(recipe.base.model))!r} has no tokenizer"
    tokenizer, _ = load_tokenizer_of_base(recipe.base)
    meanings = parts_of(recipe, meanings).train
    return prepare_meanings(meanings, tokenizer, rules, cache_dir=token_cache()), None


def what_is_absent(recipe: Recipe) -> str:
    """`the tokenizer is` or `the rows are`: what keeps tokens from being counted."""
    has_rows = not _absent(recipe.data.train)
    return "the tokenizer is" if has_rows and not _has_tokenizer(recipe) else "the rows are"


def _has_tokenizer(recipe: Recipe) -> bool:
    """Whether there is one; of a hub id it is only known once it is asked for."""
    folder = hub.local_path(recipe.base.model)
    return not folder.is_dir() or any((folder / name).is_file() for name in TOKENIZER_FILES)


def _absent(sources: SourceList) -> list[str]:
    paths = [str(spec.source) for spec in specs_of(sources)]
    return [p for p in paths if not is_builtin_data(p) and not Path(p).expanduser().exists()]
