"""Which examples of a set are measured, which are asked, and whether they are enough to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.examples import ExampleSet, some_examples
from lorakit.data.questions import Question, questions
from lorakit.data.sources import Placed
from lorakit.data.variants import source_and_variant
from lorakit.errors import DataError
from lorakit.evaluate.measures import UNANSWERED, Measures
from lorakit.evaluate.variants import same_rows
from lorakit.recipe.metric_names import CHOICES

# One answer compares with nothing, neither by `content` nor by an interval.
MIN_ANSWERS = 2


class HeldOut(Protocol):
    """A set to measure on; `data.prepare.Prepared` is one."""

    @property
    def examples(self) -> ExampleSet: ...

    @property
    def meanings(self) -> Sequence[Placed]: ...

    @property
    def conversations(self) -> Sequence[Conversation | PlainText]: ...

    @property
    def chat_template(self) -> str: ...


def check_measurable(
    sets: Mapping[str, HeldOut], measures: Measures, stop_ids: Sequence[int]
) -> None:
    """Raise DataError for a set whose primary metric needs answers and that has no questions.

    To be called before training: a verdict that cannot be given is found here, not hours later.
    """
    for name, held_out in sets.items():
        primary = measures.primary_of(name)
        count = num_measured(sets, name, measures, stop_ids)
        source, _ = source_and_variant(name) or (name, "")  # whose metric decides a variant too
        by_loss = f"by its loss: evaluate.primary: {{{source}: loss}}."
        if primary in CHOICES and count < MIN_ANSWERS:
            raise DataError(
                f"{name}: evaluate.primary is {primary}, which chooses among options, but {count} "
                f"of its {len(held_out.examples)} examples have any. Name rows of the format "
                f"multiple_choice, or decide {source} {by_loss}"
            )
        if primary in measures.answered and count < MIN_ANSWERS:
            raise DataError(
                f"{name}: evaluate.primary is {primary}, which scores answers, but {count} of "
                f"its {len(held_out.examples)} examples {_would_be_asked(name)}, or decide "
                f"{source} {by_loss}"
            )


def _would_be_asked(name: str) -> str:
    if source_and_variant(name) is None:
        return "have a prompt to answer. Name rows with prompts"
    return (
        "are rows that its source is asked: the others of these grew too long. Raise "
        "evaluate.max_generated or data.max_length, leave the variant out"
    )


def num_measured(
    sets: Mapping[str, HeldOut], name: str, measures: Measures, stop_ids: Sequence[int]
) -> int:
    """The number of examples that a set's verdict would rest on."""
    primary = measures.primary_of(name)
    indices, asked = drawn_for(sets, name, measures, stop_ids)
    if primary in CHOICES:
        return len(with_options(sets[name], indices, measures))
    return len(indices) if primary in UNANSWERED else len(asked)


def draw(count: int, at_most: int | None, *, seed: int) -> np.ndarray:
    """int64, at most so many of `count` indices, in order; files are often sorted by topic."""
    if at_most is None or count <= at_most:
        return np.arange(count)
    generator = np.random.Generator(np.random.Philox(seed))
    return np.sort(generator.permutation(count)[:at_most])


def sample(examples: ExampleSet, indices: np.ndarray) -> ExampleSet:
    """The examples at `indices`, which are in order and without repeats."""
    return examples if len(indices) == len(examples) else some_examples(examples, indices)


def drawn_questions(
    examples: ExampleSet, measures: Measures, stop_ids: Sequence[int]
) -> tuple[np.ndarray, list[Question]]:
    """Which examples are measured, and the questions among them that are asked."""
    indices = draw(len(examples), measures.max_examples, seed=measures.seed)
    if not measures.answered:
        return indices, []
    possible = questions(examples, indices.tolist(), stop_ids)
    picked = draw(len(possible), measures.max_generated, seed=measures.seed)
    return indices, [possible[place] for place in picked]


def drawn_for(
    sets: Mapping[str, HeldOut], name: str, measures: Measures, stop_ids: Sequence[int]
) -> tuple[np.ndarray, list[Question]]:
    """`drawn_questions`; of a variant, the rows that are drawn of its source."""
    examples, of = sets[name].examples, source_and_variant(name)
    if of is None:
        return drawn_questions(examples, measures, stop_ids)
    source = sets[of[0]]
    places = same_rows(source.meanings, sets[name].meanings)
    indices, asked = drawn_questions(source.examples, measures, stop_ids)
    mine = [places[index] for index in indices.tolist() if index in places]
    answered = [places[one.index] for one in asked if one.index in places]
    return np.array(mine, np.int64), questions(examples, answered, stop_ids)


def with_options(held_out: HeldOut, indices: np.ndarray, measures: Measures) -> list[Conversation]:
    """The measured rows that have options, where a metric chooses among them."""
    if not measures.choices:
        return []
    rows = (held_out.conversations[index] for index in indices.tolist())
    return [row for row in rows if isinstance(row, Conversation) and row.choices is not None]
