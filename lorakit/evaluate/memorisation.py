"""Memorisation: how much of the answers stands word for word in training answers to others.

Training answers to the very questions that are asked are left out. Of each answer the longest run
of words is found that some training answer also has. An answer is `copied` when that run is the
whole answer, or 50 words of it (Carlini et al., "Quantifying memorization across neural language
models", arXiv 2202.07646, and Lee et al., arXiv 2107.06499, ask for 50 tokens). Runs under 8 words
count as none: everybody's sentences share those. Where the data repeat themselves, right answers
have such runs too, so that answers are held against the references of the same questions: what
tuned has beyond them is learned by heart. Words are those of token_f1.

E answered examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.examples import Example, ExampleSet
from lorakit.data.questions import last_trained_span
from lorakit.data.sources import Placed
from lorakit.evaluate.result import AnsweredExample
from lorakit.evaluate.shared_runs import MIN_RUN, SharedRun, longest_runs
from lorakit.evaluate.statistics import Comparison, central_interval, p_value, resampled_means
from lorakit.tasks.token_f1 import words

COPIED_RUN = 50
# Training answers searched at most, drawn by the seed: a few seconds and 100 MB.
MAX_TRAINING = 50_000
NUM_SHOWN = 3


@dataclass(frozen=True)
class CopiedRun:
    """A run of a tuned answer that stands in a training row, to be shown."""

    index: int
    length: int
    total: int
    where: str
    text: str


@dataclass(frozen=True)
class Memorisation:
    """The answers of one set, held against all training answers to other questions.

    Attributes:
        answers: E; training_answers: those searched, out of `training_available`.
        copied: share of copied answers; run: mean length of the longest run in words. Of both,
            `base` are the references, `tuned` the tuned model's answers.
        base_copied, base_run: the same of the base's answers, which saw no training answer.
        shown: the longest runs of tuned answers.
    """

    answers: int
    training_answers: int
    training_available: int
    copied: Comparison
    run: Comparison
    base_copied: float
    base_run: float
    shown: tuple[CopiedRun, ...]

    def to_json(self) -> dict[str, object]:
        """The shape of `memorisation` in a set of `evaluation.json`."""
        return {
            "answers": self.answers,
            "training_answers": self.training_answers,
            "training_available": self.training_available,
            "copied": _against_references(self.copied, self.base_copied),
            "longest_run": _against_references(self.run, self.base_run),
            "shown": [vars(one) for one in self.shown],
        }


def _against_references(one: Comparison, of_base: float) -> dict[str, object]:
    told = one.to_json()
    return {
        "references": told["base"],
        "base": of_base,
        "tuned": told["tuned"],
        "difference": told["difference"],
        "interval": told["interval"],
        "p_value": told["p_value"],
    }


@dataclass(frozen=True)
class TrainingAnswers:
    """Texts that were trained on, without those to the questions that are asked.

    Attributes:
        texts: as words; places: index of the training example of each.
        available: training examples altogether.
    """

    texts: list[list[str]]
    places: list[int]
    available: int


def training_answers(
    tokenizer: PreTrainedTokenizerBase,
    train: ExampleSet,
    asked: Sequence[Sequence[int]],
    *,
    seed: int,
) -> TrainingAnswers:
    """The trained parts of the training rows, at most MAX_TRAINING drawn rows.

    Args:
        tokenizer: decodes them.
        train: the training set.
        asked: prompts as token ids; rows with such a prompt are left out.
        seed: of the draw.
    """
    taken = np.arange(len(train))
    if len(train) > MAX_TRAINING:
        generator = np.random.Generator(np.random.Philox(seed))
        taken = np.sort(generator.permutation(len(train))[:MAX_TRAINING])
    same = {np.asarray(prompt, np.int32).tobytes() for prompt in asked}
    ids, places = [], []
    for place in taken.tolist():
        example = train[place]
        start, _ = last_trained_span(example)
        if example.input_ids[:start].astype(np.int32).tobytes() not in same:
            for span in _trained_spans(example):
                ids.append(span)
                places.append(place)
    texts = tokenizer.batch_decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return TrainingAnswers([words(text) for text in texts], places, len(train))


def _trained_spans(example: Example) -> Iterator[list[int]]:
    edges = np.flatnonzero(np.diff(np.pad((example.loss_weights > 0).astype(np.int8), 1)))
    for start, end in edges.reshape(-1, 2).tolist():
        yield example.input_ids[start:end].tolist()


def measure_memorisation(
    answered: Sequence[AnsweredExample],
    training: TrainingAnswers,
    rows: Sequence[Placed],
    *,
    seed: int,
) -> Memorisation | None:
    """Hold the answers of a set against the training answers; None where there are none.

    Args:
        answered: E examples.
        training: see `training_answers`.
        rows: behind the training examples.
        seed: of the resampling.
    """
    if not answered or not training.texts:
        return None
    texts = [[getattr(one, who) for one in answered] for who in ("reference", "base", "tuned")]
    split = [words(text) for column in texts for text in column]
    runs = longest_runs(split, training.texts)
    count = len(answered)
    reference, base, tuned = (runs[k * count : (k + 1) * count] for k in range(3))
    longest = sorted(range(count), key=lambda e: (-tuned[e].length, e))[:NUM_SHOWN]
    return Memorisation(
        count,
        len(set(training.places)),
        training.available,
        _compare([is_copied(one) for one in reference], [is_copied(one) for one in tuned], seed),
        _compare([one.length for one in reference], [one.length for one in tuned], seed),
        float(np.mean([is_copied(one) for one in base])),
        float(np.mean([one.length for one in base])),
        tuple(
            CopiedRun(
                answered[e].index,
                tuned[e].length,
                tuned[e].total,
                rows[training.places[tuned[e].source]].location,
                " ".join(split[2 * count + e][tuned[e].start :][: tuned[e].length]),
            )
            for e in longest
            if tuned[e].length
        ),
    )


def is_copied(run: SharedRun) -> bool:
    """Whether a run is the whole answer, or long enough to be no chance."""
    return run.length >= MIN_RUN and run.length >= min(run.total, COPIED_RUN)


def _compare(reference: Sequence[float], tuned: Sequence[float], seed: int) -> Comparison:
    before, after = np.asarray(reference, np.float64), np.asarray(tuned, np.float64)
    (change_R,) = resampled_means((after - before)[None], np.ones(len(after)), seed=seed)
    return Comparison(
        float(before.mean()),
        float(after.mean()),
        float((after - before).mean()),
        central_interval(change_R),
        len(after),
        p_value=p_value(change_R),
    )
