"""One way, measured: what it answers, what that is worth, and what it takes.

E questions, A tokens of an answer.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit import tasks
from lorakit.adapters.attached import adapter_disabled
from lorakit.compare.prompts import Prompts, Way
from lorakit.compare.questions import AskedQuestion
from lorakit.data.examples import Example, examples_in_memory
from lorakit.generate import Completion, SamplingSettings, generate
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.retrieve.prompt import cited, without_citations
from lorakit.train.losses import example_losses

log = logging.getLogger(__name__)

LOSS = "loss"
# The questions are answered in so many parts, and of each part every way takes its turn: what else
# the machine does meanwhile then costs all of them.
TURNS = 4
# Seconds of one call: the whole, and until its first token.
Call = tuple[float, float]


@dataclass(frozen=True)
class Latency:
    """Seconds of single calls, asked one after the other: no other call shares the machine.

    Attributes:
        calls: that were timed.
        median, p95: of the whole call, in seconds, looking things up included.
        first_token: median seconds until the first token.
    """

    calls: int
    median: float
    p95: float
    first_token: float


@dataclass(frozen=True)
class Measured:
    """What one way did.

    Attributes:
        way: which.
        prompts: what the model was given.
        answers: one for each question.
        values: {metric: float64 (E,)}; `loss` is the weighted NLL of the right answer, in nats.
        prompt_tokens, answer_tokens: int64 (E,).
        seconds: of answering all questions, a part of them as a batch at a time.
        latency: of some of them, one by one.
    """

    way: Way
    prompts: Prompts
    answers: list[Completion]
    values: dict[str, np.ndarray]
    prompt_tokens: np.ndarray
    answer_tokens: np.ndarray
    seconds: float
    latency: Latency

    @property
    def num_cut(self) -> int:
        """Answers that did not come to their end."""
        return sum(answer.finish_reason == "length" for answer in self.answers)

    @property
    def num_cited(self) -> int | None:
        """Answers that cite a document they were given; None for ways without documents."""
        if not self.way.has_documents:
            return None
        pairs = zip(self.answers, self.prompts.prompts, strict=True)
        return sum(bool(cited(answer.text, prompt.found)) for answer, prompt in pairs)


@dataclass(frozen=True)
class Measuring:
    """How ways are measured.

    Attributes:
        settings: of the answers.
        metrics: `loss`, and scorers out of `tasks`.
        scoring: what scorers need.
        timed: questions that are asked one by one.
        token_budget: of one forward pass of the losses.
        packed: whether the family may be packed.
    """

    settings: SamplingSettings
    metrics: tuple[str, ...]
    scoring: tasks.ScoringOptions
    timed: int
    token_budget: int
    packed: bool

    def of_way(self, place: int) -> Measuring:
        """For the way at that place: all have the same references, so that what is wrong with these
        is told of the first."""
        return replace(self, scoring=replace(self.scoring, knows_references=place > 0))


@dataclass(frozen=True)
class Answered:
    """What one way answered to all questions, in how many seconds, and single calls timed."""

    answers: list[Completion]
    seconds: float
    latency: Latency


def answer_in_turns(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[Way, Prompts]],
    how: Measuring,
) -> list[Answered]:
    """Let every way answer its prompts: a part of them at a time, all ways by turns.

    Args:
        model: with the adapter attached and switched on.
        prompts: of each way, for the same questions.
    """
    # What is compiled or loaded at the first call must not count as the first way's time.
    warm_up = SamplingSettings(max_new_tokens=2, temperature=0.0)
    generate(model, tokenizer, [prompts[0][1].prompts[0].ids], warm_up)
    # Once for all parts, so that each way is answered under the same conditions to its end.
    room = AnswerRoom.here(model, max_new_tokens=how.settings.max_new_tokens, given=None)
    at_a_time = [room.at_a_time(max(len(one.ids) for one in asked.prompts)) for _, asked in prompts]
    answers: list[list[Completion]] = [[] for _ in prompts]
    seconds = [0.0] * len(prompts)
    calls: list[list[Call]] = [[] for _ in prompts]
    for turn, (part, timed) in enumerate(_turns(len(prompts[0][1].prompts), how.timed), start=1):
        if not part:  # fewer questions than turns
            break
        for place, (way, asked) in enumerate(prompts):
            ids = [prompt.ids for prompt in asked.prompts]
            told = f"{way.title}: part {turn} of {TURNS}"
            with _as(model, way):
                started = time.perf_counter()
                answers[place] += generate(
                    model,
                    tokenizer,
                    [ids[i] for i in part],
                    how.settings,
                    max_batch=at_a_time[place],
                    max_dense_bytes=room.dense_bytes,
                    description=told,
                )
                seconds[place] += time.perf_counter() - started
                calls[place] += time_calls(model, tokenizer, [ids[i] for i in timed], how.settings)
                log.info("%s answered in %.1f s", told, time.perf_counter() - started)
    return [
        Answered(given, taken, _latency(single, asked.search_seconds))
        for given, taken, single, (_, asked) in zip(answers, seconds, calls, prompts, strict=True)
    ]


def _turns(count: int, timed: int) -> Iterator[tuple[list[int], list[int]]]:
    """For each turn, which of `count` prompts are answered, and which are timed one by one."""
    places = np.linspace(0, count - 1, min(timed, count)).round().astype(int)
    parts = np.array_split(np.arange(count), TURNS)
    for part, alone in zip(parts, np.array_split(places, TURNS), strict=True):
        yield part.tolist(), alone.tolist()


def _as(model: PreTrainedModel, way: Way) -> AbstractContextManager[None]:
    """Inside, the model is the one that a way asks."""
    return nullcontext() if way.is_tuned else adapter_disabled(model)


def measure(
    model: PreTrainedModel,
    way: Way,
    prompts: Prompts,
    questions: Sequence[AskedQuestion],
    answered: Answered,
    how: Measuring,
) -> Measured:
    """Measure what one way answered.

    Args:
        model: with the adapter attached and switched on.
        prompts: of this way.
        questions: what is asked, in the order of the prompts.
        answered: see `answer_in_turns`.
    """
    ids = [prompt.ids for prompt in prompts.prompts]
    answers = answered.answers
    values: dict[str, np.ndarray] = {}
    if LOSS in how.metrics:
        with _as(model, way):
            values[LOSS] = _nll(model, ids, questions, how, way.title)
    # References cite nothing: a scorer would take the numbers for wrong words.
    texts = [
        without_citations(answer.text, prompt.found).strip()
        for answer, prompt in zip(answers, prompts.prompts, strict=True)
    ]
    references = [one.reference for one in questions]
    for name in how.metrics:
        if name != LOSS:
            values[name] = tasks.scorer(name).scores(texts, references, how.scoring)
    return Measured(
        way,
        prompts,
        answers,
        values,
        np.array([len(one) for one in ids]),
        np.array([len(answer.token_ids) for answer in answers]),
        answered.seconds + prompts.search_seconds * len(ids),
        answered.latency,
    )


def time_calls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
) -> list[Call]:
    """Ask prompts one after the other, and take the time of each.

    In one go, with one sequence at a time: what `generate` sets up once is not counted, as in a
    server that is running. The longest is asked once more beforehand, to warm up.
    """
    if not prompts:
        return []
    ends: dict[int, float] = {}
    firsts: dict[int, float] = {}

    def on_token(index: int, _: int) -> None:
        ends[index] = time.perf_counter()
        firsts.setdefault(index, ends[index])

    generate(
        model,
        tokenizer,
        [max(prompts, key=len), *prompts],  # the longest first, of equals the first: see `generate`
        settings,
        max_batch=1,
        on_token=on_token,
        has_bar=False,  # drawing it would be timed too
    )
    order = sorted(ends, key=lambda index: ends[index])
    return [
        (ends[index] - ends[before], firsts[index] - ends[before])
        for before, index in itertools.pairwise(order)
    ]


def _latency(calls: Sequence[Call], search_seconds: float) -> Latency:
    whole, first = (np.array(one) + search_seconds for one in zip(*calls, strict=True))
    return Latency(
        len(calls),
        float(np.median(whole)),
        float(np.quantile(whole, 0.95)),
        float(np.median(first)),
    )


def _nll(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    questions: Sequence[AskedQuestion],
    how: Measuring,
    title: str,
) -> np.ndarray:
    """float64 (E,): NLL of each right answer after its prompt, in nats."""
    examples = [
        Example(
            np.concatenate([np.asarray(prompt, np.int32), one.answer_ids.astype(np.int32)]),
            np.concatenate([np.zeros(len(prompt), np.float32), one.answer_weights]),
        )
        for prompt, one in zip(prompts, questions, strict=True)
    ]
    return example_losses(
        model,
        examples_in_memory(examples),
        token_budget=how.token_budget,
        packed=how.packed,
        description=f"{title}: loss",
    ).nll
