"""What base and tuned answer to the questions of held-out examples, and how the answers score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit import tasks
from lorakit.adapters.attached import adapter_disabled
from lorakit.data.questions import Question, decoded, decoded_prompts
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
class Truncated:
    """Answers that did not stop within evaluate.max_new_tokens, which no score need show.

    Attributes:
        answers: of each model.
        base, tuned: those of them that did not stop.
    """

    answers: int
    base: int
    tuned: int

    def to_json(self) -> dict[str, object]:
        """`truncated` of a set in `evaluation.json`."""
        return dict(vars(self))

    def notes(self, how: str = "") -> Iterator[str]:
        """A word on each model of which they are many.

        Args:
            how: they were made, such as " (sampled)".
        """
        for who, count in (("base", self.base), ("tuned", self.tuned)):
            if are_many_truncated(count, self.answers):
                yield (
                    f"{who}{how} did not stop within evaluate.max_new_tokens in {count} of "
                    f"{self.answers} answers"
                )


def are_many_truncated(count: int, answers: int) -> bool:
    """Whether so many answers without an end are worth a word: a tenth."""
    return answers > 0 and count * 10 >= answers


@dataclass(frozen=True)
class Answered:
    """Every answer of a set and its scores; `notes` say what else to know about them."""

    examples: tuple[AnsweredExample, ...] = ()
    scores: dict[str, Scores] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    truncated: Truncated | None = None


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
        description: of the set, for the progress bar and messages.
    """
    prompts = [one.prompt_ids for one in asked]
    tuned = answerer(prompts, f"{description}: tuned answers")
    with adapter_disabled(model):
        base = answerer(prompts, f"{description}: base answers")
    questions = decoded_prompts(tokenizer, prompts)
    references = [decoded(tokenizer, one.reference_ids) for one in asked]
    options = replace(options, set_name=description)
    scores = {
        name: _scores(name, base, tuned, references, options) for name in dict.fromkeys(scorers)
    }
    examples = tuple(
        AnsweredExample(
            one.index,
            questions[place],
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
    truncated = Truncated(len(asked), num_truncated(base), num_truncated(tuned))
    return Answered(examples, scores, tuple(truncated.notes()), truncated)


def _scores(
    name: str,
    base: Sequence[Answer],
    tuned: Sequence[Answer],
    references: Sequence[str],
    options: tasks.ScoringOptions,
) -> Scores:
    scorer = tasks.scorer(name)
    before, after = (
        scorer.scores(
            [answer.text for answer in answers],
            references,
            replace(options, knows_references=answers is tuned),
        )
        for answers in (base, tuned)
    )
    return Scores(before, after, scorer.HIGHER_IS_BETTER)


def num_truncated(answers: Sequence[Answer]) -> int:
    """How many did not come to their end."""
    return sum(answer.finish_reason == "length" for answer in answers)
