"""How many answers the final evaluation asks for, and their tokens at most."""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.data.questions import Question, questions
from lorakit.evaluate.drawn import draw
from lorakit.evaluate.sampling import Sampling
from lorakit.evaluate.worst import answers_are_wanted
from lorakit.plan.rows import Sets
from lorakit.recipe import EvaluateSection


@dataclass(frozen=True)
class Answers:
    """Of one model; base and tuned answer the same.

    Attributes:
        greedy: one for each question.
        sampled: those of `evaluate.sampling`.
        max_new_tokens: of one answer.
    """

    greedy: int
    sampled: int
    max_new_tokens: int

    def to_json(self) -> dict[str, int]:
        """Its part of `plan.json`: of base and tuned together."""
        count = 2 * (self.greedy + self.sampled)
        return {
            "greedy": 2 * self.greedy,
            "sampled": 2 * self.sampled,
            "generated_tokens_at_most": count * self.max_new_tokens,
        }


def count_answers(sets: Sets, wanted: EvaluateSection, *, seed: int) -> Answers | None:
    """What will be answered on these sets; None: nothing.

    Args:
        sets: of the run.
        wanted: the recipe's section.
        seed: of the draws.

    Raises:
        RecipeError: sampled answers that cannot be measured.
    """
    count = len(asked_questions(sets, wanted, seed=seed))
    if not count:
        return None
    return Answers(count, count * samples_of_each(wanted), wanted.max_new_tokens)


def asked_questions(sets: Sets, wanted: EvaluateSection, *, seed: int) -> list[Question]:
    """The questions of all sets; where rows have no prompt, others may take their place."""
    if not answers_are_wanted(wanted):
        return []
    asked: list[Question] = []
    for examples in sets.evaluation.values():
        rows = draw(len(examples), wanted.max_examples, seed=seed)
        picked = rows[draw(len(rows), wanted.max_generated, seed=seed)]
        asked += questions(examples, picked.tolist(), ())
    return asked


def samples_of_each(wanted: EvaluateSection) -> int:
    """Sampled answers to each question.

    Raises:
        RecipeError: see `Sampling.from_section`.
    """
    if wanted.sampling is None:
        return 0
    return Sampling.from_section(wanted.sampling, wanted.metrics).num_samples
