"""Questions of held-out examples, what base and tuned answer, and how the answers score.

The prompt of an example is what precedes its last trained span, and the reference that span without
its stop token: the model is asked exactly what it will be asked when served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit import tasks
from lorakit.adapters.attached import adapter_disabled
from lorakit.data.examples import Example, ExampleSet
from lorakit.evaluate.judge import Scores
from lorakit.evaluate.result import AnsweredExample


class Answer(Protocol):
    """What a model answered; `lorakit.generate.Completion` is one."""

    @property
    def text(self) -> str: ...

    @property
    def finish_reason(self) -> str: ...


# (prompts as token ids, words for the progress bar) -> an answer to each, in order.
Answerer = Callable[[Sequence[Sequence[int]], str], Sequence[Answer]]


@dataclass(frozen=True)
class Question:
    """An example as it is asked.

    Attributes:
        index: of the example in its set.
        prompt_ids: what the model is given.
        reference_ids: the right answer, without a stop token.
    """

    index: int
    prompt_ids: list[int]
    reference_ids: list[int]


@dataclass(frozen=True)
class Answered:
    """Every answer of a set and its scores; `notes` say what else to know about them."""

    examples: tuple[AnsweredExample, ...] = ()
    scores: dict[str, Scores] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def question(example: Example, index: int, stop_ids: Sequence[int]) -> Question | None:
    """The example as a question; None where it has no prompt, as plain text has none.

    The first token alone, which nothing can predict, is no prompt.
    """
    start, end = last_trained_span(example)
    if start < 2:
        return None
    answer = example.input_ids[start:end]
    stops = np.flatnonzero(np.isin(answer, np.asarray(stop_ids, answer.dtype)))
    if len(stops):
        answer = answer[: stops[-1]]
    return Question(index, example.input_ids[:start].tolist(), answer.tolist())


def last_trained_span(example: Example) -> tuple[int, int]:
    """Start and end of the last run of trained tokens: the answer that is learned."""
    end = int(np.flatnonzero(example.loss_weights)[-1]) + 1
    start = int(np.flatnonzero(example.loss_weights[:end] == 0)[-1]) + 1
    return start, end


def questions(
    examples: ExampleSet, indices: Sequence[int], stop_ids: Sequence[int]
) -> list[Question]:
    """The questions among the examples at `indices`, in order."""
    found = (question(examples[index], index, stop_ids) for index in indices)
    return [one for one in found if one is not None]


def answer_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Question],
    answerer: Answerer,
    scorers: Sequence[str],
    options: tasks.ScoringOptions,
    *,
    description: str,
) -> Answered:
    """Let base and tuned answer the same questions, and score both.

    Args:
        model: with an adapter attached and switched on.
        tokenizer: decodes prompts and references.
        asked: two questions or more.
        answerer: answers with the model as it stands.
        scorers: names of `tasks`.
        options: of the scorers.
        description: of the progress bar.
    """
    prompts = [one.prompt_ids for one in asked]
    tuned = answerer(prompts, f"{description}: tuned answers")
    with adapter_disabled(model):
        base = answerer(prompts, f"{description}: base answers")
    references = [_text(tokenizer, one.reference_ids) for one in asked]
    scores = {
        name: _scores(name, base, tuned, references, options) for name in dict.fromkeys(scorers)
    }
    examples = tuple(
        AnsweredExample(
            one.index,
            _text(tokenizer, one.prompt_ids),
            references[place],
            base[place].text,
            tuned[place].text,
            {
                name: (float(values.base[place]), float(values.tuned[place]))
                for name, values in scores.items()
            },
        )
        for place, one in enumerate(asked)
    )
    cut = [_cut("base", base), _cut("tuned", tuned)]
    return Answered(examples, scores, tuple(note for note in cut if note))


def _scores(
    name: str,
    base: Sequence[Answer],
    tuned: Sequence[Answer],
    references: Sequence[str],
    options: tasks.ScoringOptions,
) -> Scores:
    scorer = tasks.scorer(name)
    before, after = (
        scorer.scores([answer.text for answer in answers], references, options)
        for answers in (base, tuned)
    )
    return Scores(before, after, scorer.HIGHER_IS_BETTER)


def _cut(who: str, answers: Sequence[Answer]) -> str | None:
    """A word on answers that did not come to their end, when they are many."""
    count = sum(answer.finish_reason == "length" for answer in answers)
    if count * 10 < len(answers):
        return None
    return f"{who} did not stop within evaluate.max_new_tokens in {count} of {len(answers)} answers"


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    # As answers are decoded: cleaned up, a reference would lose spaces that its answer keeps.
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).strip()
