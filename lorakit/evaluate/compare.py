"""Before and after on named sets: what is measured, and the way from a model to verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit import tasks
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.examples import ExampleSet, some_examples
from lorakit.data.sources import Row
from lorakit.data.variants import source_and_variant
from lorakit.errors import DataError, RecipeError
from lorakit.evaluate.answers import Answered, Answerer, Question, answer_questions, questions
from lorakit.evaluate.calibration import compare_calibration, compare_choices
from lorakit.evaluate.choice import choice_scores
from lorakit.evaluate.forgotten import most_forgotten
from lorakit.evaluate.judge import KL, LOSS_METRICS, Scores, judge
from lorakit.evaluate.result import AnsweredExample, Measured, Proof, SetResult
from lorakit.evaluate.token_distributions import BothDistributions, both_distributions
from lorakit.evaluate.variants import same_rows
from lorakit.evaluate.win_rate import PairJudge
from lorakit.recipe import EvaluateSection
from lorakit.recipe.metric_names import CHOICES, WIN_RATE
from lorakit.tasks.json_schema import load_schema

RETENTION = "retention"
# Metrics that need no answer: those of the loss, the distance from the base, and choices.
UNANSWERED = (*LOSS_METRICS, KL, *CHOICES)
# One answer compares with nothing, neither by `content` nor by an interval.
MIN_ANSWERS = 2
NOT_YET_JUDGED = (
    f"{WIN_RATE} is not measured yet: no verdict here rests on it; `lorakit evaluate` on the run "
    "asks the judge"
)


@dataclass(frozen=True)
class Measures:
    """What is measured on every set.

    Attributes:
        metrics: names out of UNANSWERED and `tasks`, and WIN_RATE; `loss` is always measured, and
            `kl` on retention and there alone.
        primary: the metric the verdict rests on, {set: name}; `loss` for others.
        margin: how much of the primary metric retention may lose, in its own unit.
        max_examples: measured per set; None: all.
        max_generated: answered per set, out of the measured ones.
        scoring: what scorers need.
        judge: who decides WIN_RATE.
        seed: of the samples and of the resampling.
    """

    metrics: tuple[str, ...] = ("loss", "perplexity")
    primary: Mapping[str, str] | str = "loss"
    margin: float = 0.05
    max_examples: int | None = None
    max_generated: int = 100
    scoring: tasks.ScoringOptions = field(default_factory=tasks.ScoringOptions)
    judge: PairJudge | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        possible = [*UNANSWERED, WIN_RATE, *tasks.names()]
        named = [self.primary] if isinstance(self.primary, str) else list(self.primary.values())
        for name in [*self.metrics, *named]:
            if name not in possible:
                raise RecipeError(
                    f"evaluate.metrics or evaluate.primary names {name!r}; possible: "
                    f"{', '.join(possible)}. Choose one of them."
                )
        for name in named:
            if name not in {"loss", KL, *self.metrics}:
                raise RecipeError(
                    f"evaluate.primary {name!r} is not among evaluate.metrics "
                    f"{list(self.metrics)}; add it there."
                )
        if WIN_RATE in self.metrics and self.judge is None:
            raise RecipeError(f"evaluate.metrics names {WIN_RATE}, which needs evaluate.judge.")

    @staticmethod
    def from_section(section: EvaluateSection, *, seed: int) -> Measures:
        """What a recipe asks for.

        Raises:
            RecipeError: a metric that does not exist, or a JSON schema that cannot be used.
        """
        schema = None if section.json_schema is None else load_schema(section.json_schema)
        return Measures(
            metrics=tuple(section.metrics),
            primary=section.primary,
            margin=section.margin,
            max_examples=section.max_examples,
            max_generated=section.max_generated,
            scoring=tasks.ScoringOptions(section.regex, schema, seed),
            judge=None if section.judge is None else PairJudge.from_section(section.judge),
            seed=seed,
        )

    @property
    def answered(self) -> list[str]:
        """The metrics that need answers."""
        return [name for name in self.metrics if name not in UNANSWERED]

    @property
    def scorers(self) -> list[str]:
        """The metrics that `tasks` computes of answers."""
        return [name for name in self.answered if name != WIN_RATE]

    @property
    def choices(self) -> list[str]:
        """The metrics of options and their likelihoods."""
        return [name for name in self.metrics if name in CHOICES]

    def primary_of(self, set_name: str) -> str:
        """The metric that a set's verdict rests on; a variant's is that of its source."""
        return primary_of(self.primary, set_name)


def primary_of(primary: Mapping[str, str] | str, set_name: str) -> str:
    """The metric that a set's verdict rests on, by what `evaluate.primary` says."""
    if isinstance(primary, str):
        return primary
    source, _ = source_and_variant(set_name) or (set_name, "")
    return primary.get(source, "loss")


class HeldOut(Protocol):
    """A set to measure on; `data.prepare.Prepared` is one."""

    @property
    def examples(self) -> ExampleSet: ...

    @property
    def rows(self) -> Sequence[Row]: ...

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
        count = num_measured(held_out, name, measures, stop_ids)
        if primary in CHOICES and count < MIN_ANSWERS:
            raise DataError(
                f"{name}: evaluate.primary is {primary}, which chooses among options, but {count} "
                f"of its {len(held_out.examples)} examples have any. Name rows of the format "
                "multiple_choice, or decide this set by its loss: evaluate.primary: {"
                + f"{name}: loss}}."
            )
        if primary in measures.answered and count < MIN_ANSWERS:
            raise DataError(
                f"{name}: evaluate.primary is {primary}, which scores answers, but {count} of "
                f"its {len(held_out.examples)} examples have a prompt to answer. Name rows with "
                "prompts, or decide this set by its loss: evaluate.primary: {" + f"{name}: loss}}."
            )


def num_measured(held_out: HeldOut, name: str, measures: Measures, stop_ids: Sequence[int]) -> int:
    """The number of examples that a set's verdict would rest on."""
    primary = measures.primary_of(name)
    indices, asked = _drawn_questions(held_out.examples, measures, stop_ids)
    if primary in CHOICES:
        return len(_with_options(held_out, indices, measures))
    return len(indices) if primary in UNANSWERED else len(asked)


def compare_sets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, HeldOut],
    measures: Measures,
    answerer: Answerer,
    *,
    stop_ids: Sequence[int],
    token_budget: int,
    packed: bool,
) -> dict[str, SetResult]:
    """Measure every set with the adapter off (base) and on (tuned).

    All but the win rate, which rests on somebody else: `with_win_rate` adds it to what is measured.
    A set whose verdict is to rest on it is judged by its loss so far, and a note says so.

    Args:
        model: with an adapter attached and switched on.
        tokenizer: of the model.
        sets: {name: held-out rows}; the name `retention` is judged by non-inferiority.
        measures: what is measured.
        answerer: answers prompts with the model as it stands; not called where no scorer is named.
        stop_ids: tokens that end an answer.
        token_budget: tokens of one forward pass.
        packed: whether the family may be packed.

    Raises:
        DataError: see `check_measurable`.
    """
    check_measurable(sets, measures, stop_ids)
    results = {}
    for name, held_out in sets.items():
        indices, asked = _drawn_for(sets, name, measures, stop_ids)
        drawn = sample(held_out.examples, indices)
        found = both_distributions(
            model,
            drawn,
            with_kl=name == RETENTION,
            token_budget=token_budget,
            packed=packed,
            description=name,
        )
        base, tuned = found.base.losses, found.tuned.losses
        given, primary = Answered(), measures.primary_of(name)
        chosen: dict[str, Scores] = {}
        if not np.isfinite([*base.nll, *tuned.nll]).all():
            # A model whose losses are no numbers cannot be asked, and its loss says enough.
            given, primary = (
                Answered(notes=("its losses are no numbers: nothing was answered",)),
                "loss",
            )
        else:
            with_options = _with_options(held_out, indices, measures)
            if len(with_options) >= MIN_ANSWERS:
                chosen = choice_scores(
                    model,
                    tokenizer,
                    with_options,
                    measures.choices,
                    chat_template=held_out.chat_template,
                    stop_ids=stop_ids,
                    token_budget=token_budget,
                    packed=packed,
                    description=name,
                )
            if len(asked) >= MIN_ANSWERS:
                given = answer_questions(
                    model,
                    tokenizer,
                    asked,
                    answerer,
                    measures.scorers,
                    measures.scoring,
                    description=name,
                )
        if primary == WIN_RATE:
            primary = "loss"
        measured = Measured(
            indices,
            base,
            tuned,
            found.kl,
            chosen | given.scores,
            (*_not_measured(measures, asked, chosen, len(drawn)), *given.notes),
        )
        judged = _judged(name, measured, measures, primary)
        unjudged = (NOT_YET_JUDGED,) if _wants_judge(given.examples, measures) else ()
        results[name] = replace(
            judged,
            available=len(held_out.examples),
            notes=(*judged.notes, *unjudged),
            answered=given.examples,
            forgotten=most_forgotten(
                tokenizer, held_out.examples, held_out.rows, indices, base, tuned, stop_ids=stop_ids
            ),
            proofs=_calibrations(found, chosen, measures.seed),
            measured=measured,
        )
    return results


def with_win_rate(result: SetResult, measures: Measures, *, name: str) -> SetResult:
    """The result with the metric win_rate, and with its verdict where that rests on it.

    Args:
        result: of `compare_sets`.
        measures: what is measured.
        name: of the set.

    Raises:
        RunError: the judge does not answer, or not to the point.
    """
    measured = result.measured
    if measures.judge is None or measured is None or not _wants_judge(result.answered, measures):
        return result
    given = measures.judge.judged(Answered(result.answered), description=name)
    measured = replace(
        measured,
        scores=dict(measured.scores) | given.scores,
        notes=(*measured.notes, *given.notes),
    )
    judged = _judged(name, measured, measures, measures.primary_of(name))
    return replace(
        judged,
        available=result.available,
        same_as=result.same_as,
        answered=given.examples,
        forgotten=result.forgotten,
        proofs=result.proofs,
        measured=measured,
    )


def _wants_judge(answered: Sequence[AnsweredExample], measures: Measures) -> bool:
    return bool(answered) and WIN_RATE in measures.metrics


def _judged(name: str, measured: Measured, measures: Measures, primary: str) -> SetResult:
    """The verdict on what was measured, with all that is to be said about it."""
    judged = judge(
        measured.base,
        measured.tuned,
        metrics=measures.metrics,
        primary=primary,
        margin=measures.margin if name == RETENTION else None,
        scores=measured.scores,
        kl=measured.kl,
        seed=measures.seed,
    )
    return replace(judged, notes=(*judged.notes, *measured.notes))


def draw(count: int, at_most: int | None, *, seed: int) -> np.ndarray:
    """int64, at most so many of `count` indices, in order; files are often sorted by topic."""
    if at_most is None or count <= at_most:
        return np.arange(count)
    generator = np.random.Generator(np.random.Philox(seed))
    return np.sort(generator.permutation(count)[:at_most])


def sample(examples: ExampleSet, indices: np.ndarray) -> ExampleSet:
    """The examples at `indices`, which are in order and without repeats."""
    return examples if len(indices) == len(examples) else some_examples(examples, indices)


def _drawn_questions(
    examples: ExampleSet, measures: Measures, stop_ids: Sequence[int]
) -> tuple[np.ndarray, list[Question]]:
    """Which examples are measured, and the questions among them that are asked."""
    indices = draw(len(examples), measures.max_examples, seed=measures.seed)
    if not measures.answered:
        return indices, []
    possible = questions(examples, indices.tolist(), stop_ids)
    picked = draw(len(possible), measures.max_generated, seed=measures.seed)
    return indices, [possible[place] for place in picked]


def _calibrations(
    found: BothDistributions, chosen: Mapping[str, Scores], seed: int
) -> dict[str, Proof]:
    """Of trained positions, and of the choices that the first metric of choices is about."""
    known = {
        "calibration": compare_calibration(
            found.base.reliability, found.tuned.reliability, seed=seed
        )
    }
    if chosen:
        known["choice_calibration"] = compare_choices(next(iter(chosen.values())), seed=seed)
    return {name: one for name, one in known.items() if one is not None}


def _drawn_for(
    sets: Mapping[str, HeldOut], name: str, measures: Measures, stop_ids: Sequence[int]
) -> tuple[np.ndarray, list[Question]]:
    """`_drawn_questions`; of a variant, the rows that are drawn of its source."""
    examples, of = sets[name].examples, source_and_variant(name)
    if of is None:
        return _drawn_questions(examples, measures, stop_ids)
    source = sets[of[0]]
    places = same_rows(source.rows, sets[name].rows)
    indices, asked = _drawn_questions(source.examples, measures, stop_ids)
    mine = [places[index] for index in indices.tolist() if index in places]
    answered = [places[one.index] for one in asked if one.index in places]
    return np.array(mine, np.int64), questions(examples, answered, stop_ids)


def _with_options(held_out: HeldOut, indices: np.ndarray, measures: Measures) -> list[Conversation]:
    """The measured rows that have options, where a metric chooses among them."""
    if not measures.choices:
        return []
    rows = (held_out.conversations[index] for index in indices.tolist())
    return [row for row in rows if isinstance(row, Conversation) and row.choices is not None]


def _not_measured(
    measures: Measures, asked: Sequence[Question], chosen: Mapping[str, Scores], measured: int
) -> list[str]:
    """A word on examples without a prompt, and on those without options."""
    notes = []
    options = min((len(one.base) for one in chosen.values()), default=0)
    if measures.choices and options < measured:
        notes.append(
            f"{', '.join(measures.choices)}: {options} of {measured} examples have options"
        )
    if not measures.answered or len(asked) >= min(measured, measures.max_generated):
        return notes
    if len(asked) < MIN_ANSWERS:
        told = f"{len(asked)} of {measured} examples have a prompt, so nothing was answered"
    else:
        told = (
            f"{measured - len(asked)} of {measured} examples have no prompt and were not answered"
        )
    return [*notes, told]
