"""The passes of an evaluation that take the most memory, found from lengths before any is made.

What `compare_sets` and `with_proofs` will do with the same sets: losses of base and tuned (with KL
on retention), options of multiple choice, answers. `evaluate/first.py` runs them before the first
training step, `plan/evaluation.py` counts them on a model without data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorakit import tasks
from lorakit.data.examples import ExampleSet, some_examples
from lorakit.data.questions import questions
from lorakit.evaluate.before_after import RETENTION
from lorakit.evaluate.drawn import MIN_ANSWERS, draw
from lorakit.evaluate.proof import LIKE_TRAINING
from lorakit.evaluate.seen_rows import looked_at
from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.recipe import EvaluateSection, Recipe
from lorakit.recipe.metric_names import CHOICES, WIN_RATE
from lorakit.train.worst import worst_of_set

# Of more rows the passes are not laid out one by one: so many fill one to the last token anyway.
MAX_LAID_OUT = 20_000
TRAIN = "train"


@dataclass(frozen=True)
class LossPass:
    """A micro-batch whose losses are measured.

    Attributes:
        set_name: of an evaluation set, or TRAIN.
        rows: its examples in that set.
        lengths: their tokens.
        num_trained: trained tokens of all of them.
        with_kl: whether base and tuned are compared over the whole vocabulary.
    """

    set_name: str
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    num_trained: int
    with_kl: bool

    def num_tokens(self, packed: bool) -> int:
        """Of the forward pass, padding included."""
        return sum(self.lengths) if packed else len(self.lengths) * max(self.lengths)


@dataclass(frozen=True)
class WorstEvaluation:
    """The passes one of which takes the most.

    Attributes:
        losses: one without KL, one with it, of those that there are.
        choices: options are scored in passes like the first of `losses`.
        prompts: of the set whose answers take the most, none where nothing is answered; where
            answers are sampled each as often as that, which takes no less than once.
        sampled: whether tokens are drawn, which takes more than to choose the most probable.
        num_scored: trained tokens of the set that has the most: of each a few numbers are kept.
        packed: whether examples share a row.
        assumed: no rows are at hand: one of the largest possible length stands for all.
        at_a_time: answers to `prompts` that are written together, if there are so many.
        dense_bytes: that dense weights may take meanwhile.
    """

    losses: tuple[LossPass, ...]
    choices: bool
    prompts: tuple[tuple[int, ...], ...]
    num_scored: int
    packed: bool
    assumed: bool = False
    at_a_time: int = 1
    dense_bytes: int = 0
    sampled: bool = False


def worst_evaluation(
    sets: Mapping[str, ExampleSet],
    train: ExampleSet | None,
    wanted: EvaluateSection,
    room: AnswerRoom,
    *,
    seed: int,
    token_budget: int,
    packed: bool,
) -> WorstEvaluation | None:
    """Look through the sets that will be measured; None where there are none.

    Linear in their rows. Where some rows of a set have no prompt, or training rows come from
    several files, it is a draw like the real one, not the same.

    Args:
        sets: {name: examples} as they will be measured.
        train: of it rows are measured too, to see what was learned by heart.
        wanted: metrics, and how many examples.
        room: for answers.
        seed: of the run.
        token_budget: tokens of one forward pass.
        packed: whether examples share a row.
    """
    if not sets:
        return None
    passes: list[LossPass] = []
    prompts: list[tuple[tuple[int, ...], ...]] = []
    num_scored = 0
    for name, examples in sets.items():
        indices = draw(len(examples), wanted.max_examples, seed=seed)
        passes.append(_largest(name, examples, indices, token_budget, packed))
        num_scored = max(num_scored, int(examples.trained_lengths[indices].sum()))
        if answers_are_wanted(wanted):
            asked = _prompts(examples, indices, wanted.max_generated, seed)
            prompts.append(as_often_as_answered(asked, wanted))
        if name == LIKE_TRAINING and train is not None:
            count = min(len(train), len(indices))
            if count >= MIN_EXAMPLES:
                pool = np.sort(looked_at(len(train), seed))
                passes.append(_fullest(TRAIN, train, pool, token_budget, packed))
    by_kind: dict[bool, LossPass] = {}
    for one in passes:
        best = by_kind.get(one.with_kl)
        if best is None or _size(one, packed) > _size(best, packed):
            by_kind[one.with_kl] = one
    largest: tuple[tuple[int, ...], ...] = ()
    for asked in prompts:
        largest = max(largest, asked, key=lambda one: _cache_size(one, room))
    return WorstEvaluation(
        tuple(by_kind.values()),
        any(metric in CHOICES for metric in wanted.metrics),
        largest,
        num_scored,
        packed,
        at_a_time=_at_a_time(largest, room),
        dense_bytes=room.dense_bytes,
        sampled=wanted.sampling is not None,
    )


def assumed_evaluation(
    recipe: Recipe, room: AnswerRoom, *, longest: int, token_budget: int, packed: bool
) -> WorstEvaluation | None:
    """Without rows: micro-batches as large as they may be, questions and answers of `longest`
    tokens together, and as many of them as may be asked; None where no set is named."""
    wanted = recipe.evaluate
    if not measures_anything(recipe):
        return None
    count = max(1, token_budget // longest)
    lengths = (longest,) * count
    kinds = (False,) if wanted.retention is None else (False, True)
    prompt = (0,) * max(1, longest - wanted.max_new_tokens)
    prompts: tuple[tuple[int, ...], ...] = ()
    if answers_are_wanted(wanted):
        prompts = as_often_as_answered((prompt,) * wanted.max_generated, wanted)
    return WorstEvaluation(
        tuple(LossPass("", (), lengths, sum(lengths) - count, kl) for kl in kinds),
        any(metric in CHOICES for metric in wanted.metrics),
        prompts,
        0,
        packed,
        assumed=True,
        at_a_time=_at_a_time(prompts, room),
        dense_bytes=room.dense_bytes,
        sampled=wanted.sampling is not None,
    )


def measures_anything(recipe: Recipe) -> bool:
    """Whether there is a set that is measured before and after."""
    wanted, data = recipe.evaluate, recipe.data
    named = (wanted.in_domain, wanted.out_of_domain, wanted.retention)
    return any(one is not None for one in (*named, data.validation, data.hold_out_topics))


def answers_are_wanted(wanted: EvaluateSection) -> bool:
    """Whether a metric scores answers."""
    return any(name == WIN_RATE or name in tasks.names() for name in wanted.metrics)


def as_often_as_answered(
    prompts: Sequence[tuple[int, ...]], wanted: EvaluateSection
) -> tuple[tuple[int, ...], ...]:
    """The prompts of one pass over the questions, each for all of its answers."""
    times = 1 if wanted.sampling is None else wanted.sampling.num_samples
    return tuple(prompt for prompt in prompts for _ in range(times))


def _largest(
    name: str, examples: ExampleSet, indices: np.ndarray, token_budget: int, packed: bool
) -> LossPass:
    """The largest of the micro-batches that will be made of these examples."""
    if len(indices) > MAX_LAID_OUT:
        return _fullest(name, examples, indices, token_budget, packed)
    places = worst_of_set(
        some_examples(examples, indices), token_budget=token_budget, packed=packed
    )
    return _pass(name, examples, indices[list(places)])


def _fullest(
    name: str, examples: ExampleSet, indices: np.ndarray, token_budget: int, packed: bool
) -> LossPass:
    """The longest of these examples, and the longest others that still have room beside it."""
    order = indices[np.argsort(-examples.lengths[indices], kind="stable")]
    lengths = examples.lengths[order]
    if not packed:
        counts = np.minimum(np.maximum(1, token_budget // lengths), np.arange(len(lengths), 0, -1))
        first = int(np.argmax(counts * lengths))
        return _pass(name, examples, order[first : first + int(counts[first])])
    chosen, room, start = [0], token_budget - int(lengths[0]), 1
    while True:
        # Lengths fall: the first that is not too long.
        start = max(start, int(np.searchsorted(-lengths, -room)))
        if room < 1 or start >= len(lengths):
            return _pass(name, examples, order[chosen])
        chosen.append(start)
        room -= int(lengths[start])
        start += 1


def _pass(name: str, examples: ExampleSet, rows: np.ndarray) -> LossPass:
    return LossPass(
        name,
        tuple(rows.tolist()),
        tuple(examples.lengths[rows].tolist()),
        int(examples.trained_lengths[rows].sum()),
        with_kl=name == RETENTION,
    )


def _size(one: LossPass, packed: bool) -> tuple[int, int]:
    return one.num_tokens(packed), one.num_trained


def _prompts(
    examples: ExampleSet, indices: np.ndarray, at_most: int, seed: int
) -> Sequence[tuple[int, ...]]:
    """The questions that will be asked, if every row has a prompt."""
    picked = indices[draw(len(indices), at_most, seed=seed)]
    # What ends an answer is no part of a prompt.
    found = [tuple(one.prompt_ids) for one in questions(examples, picked.tolist(), ())]
    return found if len(found) >= MIN_ANSWERS else []


def _cache_size(prompts: Sequence[Sequence[int]], room: AnswerRoom) -> tuple[int, int]:
    """By what two sets of prompts differ in what their answers take."""
    longest = max(map(len, prompts), default=0)
    at_once = min(len(prompts), _at_a_time(prompts, room))
    return at_once * longest, sum(map(len, prompts))


def _at_a_time(prompts: Sequence[Sequence[int]], room: AnswerRoom) -> int:
    return room.at_a_time(max(map(len, prompts), default=0))
