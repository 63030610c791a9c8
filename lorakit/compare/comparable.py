"""What five ways need of a recipe: found out before anything is trained or loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from lorakit import tasks
from lorakit.base.device import compute_device
from lorakit.base.from_recipe import load_tokenizer_of_base
from lorakit.compare.costs import Costs
from lorakit.compare.measure import LOSS
from lorakit.compare.questions import AskedQuestion, ask
from lorakit.data.named_sets import NamedSets, prepare_named_sets
from lorakit.errors import InputError
from lorakit.evaluate.judge import LOSS_METRICS
from lorakit.evaluate.measures import Measures
from lorakit.plan.machines import machine_of
from lorakit.plan.prices import Prices, load_prices
from lorakit.recipe import CompareSection, Recipe
from lorakit.retrieve.retriever import Retriever

SET = "in_domain"


def check_comparable(recipe: Recipe) -> None:
    """Find whatever would stop `compare_ways` once the recipe is trained, without its weights.

    Raises:
        InputError: documents or prices that cannot be read, an api without a price, a primary
            metric that ways cannot be compared by, or no held-out questions.
    """
    wanted = recipe.compare
    primary_of(Measures.from_section(recipe.evaluate, seed=recipe.train.seed))
    Costs(machine_of(compute_device(recipe.base.device)), prices_of(wanted), wanted.api)
    retriever_of(wanted)
    tokenizer, config = load_tokenizer_of_base(recipe.base)
    sets = prepare_named_sets(recipe, tokenizer, config)
    questions_of(sets, tokenizer, sets.train.stop_ids, wanted, recipe.train.seed)


def prices_of(wanted: CompareSection) -> Prices:
    """The table that costs are reckoned with."""
    return load_prices(None if wanted.prices is None else Path(wanted.prices))


def retriever_of(wanted: CompareSection) -> Retriever | None:
    """The documents, indexed; None where the recipe names none."""
    if wanted.documents is None:
        return None
    return Retriever.from_path(
        wanted.documents,
        chunk_characters=wanted.chunk_characters,
        overlap_characters=wanted.overlap_characters,
        text_column=wanted.text_column,
    )


def questions_of(
    sets: NamedSets,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    wanted: CompareSection,
    seed: int,
) -> tuple[list[AskedQuestion], int]:
    """See `ask`.

    Raises:
        InputError: there are none.
    """
    if SET not in sets.evaluation:
        raise InputError(
            "nothing to compare on: the recipe names neither evaluate.in_domain nor "
            "data.validation. Name held-out questions with their answers."
        )
    return ask(
        sets.evaluation[SET],
        tokenizer,
        stop_ids,
        max_examples=wanted.max_examples,
        seed=seed,
    )


def primary_of(measures: Measures) -> str:
    """The metric the verdict rests on; perplexity rises with the loss, which stands for it.

    Raises:
        InputError: one that five ways cannot be measured by.
    """
    primary = measures.primary_of(SET)
    if primary in LOSS_METRICS:
        return LOSS
    if primary not in measures.scorers:
        nearest = next(iter(measures.scorers), LOSS)
        raise InputError(
            f"evaluate.primary of {SET} is {primary!r}, which five ways are not compared by; "
            f"possible: {', '.join([*LOSS_METRICS, *tasks.names()])}. Set it to one of "
            f"evaluate.metrics that is: --set evaluate.primary={nearest}."
        )
    return primary
