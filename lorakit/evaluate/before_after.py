"""Before and after on named sets: the way from a model to verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.data.questions import Question
from lorakit.evaluate.answers import Answered, Answerer, answer_questions
from lorakit.evaluate.calibration import CALIBRATION, compare_calibration, compare_choices
from lorakit.evaluate.choice import choice_scores
from lorakit.evaluate.drawn import (
    MIN_ANSWERS,
    HeldOut,
    check_measurable,
    drawn_for,
    sample,
    with_options,
)
from lorakit.evaluate.forgotten import most_forgotten
from lorakit.evaluate.judge import Scores, judge
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.result import AnsweredExample, Measured, Proof, SetResult
from lorakit.evaluate.sampling import Sampler, with_samples
from lorakit.evaluate.token_distributions import BothDistributions, both_distributions
from lorakit.recipe.metric_names import WIN_RATE

RETENTION = "retention"
NOT_YET_JUDGED = (
    f"{WIN_RATE} is not measured yet: no verdict here rests on it; `lorakit evaluate` on the run "
    "asks the judge"
)


def compare_sets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, HeldOut],
    measures: Measures,
    answerer: Answerer,
    *,
    sampler: Sampler | None = None,
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
        sampler: the same at a temperature; needed where `measures.sampling` is given.
        stop_ids: tokens that end an answer.
        token_budget: tokens of one forward pass.
        packed: whether the family may be packed.

    Raises:
        DataError: see `check_measurable`.
    """
    check_measurable(sets, measures, stop_ids)
    results = {}
    for name, held_out in sets.items():
        indices, asked = drawn_for(sets, name, measures, stop_ids)
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
            rows = with_options(held_out, indices, measures)
            if len(rows) >= MIN_ANSWERS:
                chosen = choice_scores(
                    model,
                    tokenizer,
                    rows,
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
                if measures.sampling is not None:
                    assert sampler is not None
                    given = with_samples(
                        given,
                        model,
                        asked,
                        sampler,
                        measures.sampling,
                        measures.scoring,
                        seed=measures.seed,
                        name=name,
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
                tokenizer,
                held_out.examples,
                held_out.meanings,
                indices,
                base,
                tuned,
                stop_ids=stop_ids,
            ),
            proofs=_calibrations(found, chosen, measures.seed)
            | ({} if given.truncated is None else {"truncated": given.truncated}),
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


def _calibrations(
    found: BothDistributions, chosen: Mapping[str, Scores], seed: int
) -> dict[str, Proof]:
    """Of trained positions, and of the choices that the first metric of choices is about."""
    known = {
        CALIBRATION: compare_calibration(found.base.reliability, found.tuned.reliability, seed=seed)
    }
    if chosen:
        known["choice_calibration"] = compare_choices(next(iter(chosen.values())), seed=seed)
    return {name: one for name, one in known.items() if one is not None}


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
