"""Which examples to gather, how many, and how to keep them apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lorakit.plan.advise.questions import Answers
from lorakit.plan.advise.rules import LIMA, METHOD, MIN_EXAMPLES_TO_TUNE, RAFT

# With 100 examples the 95 % interval of a share is at most 10 points to either side, with 300 6.
INTERVALS = "95 % interval of a share: 10 points either way at 100, 6 at 300"
# evaluate/statistics.py concludes nothing from fewer.
NO_VERDICT_BELOW = 20


@dataclass(frozen=True)
class Collected:
    """One set to gather.

    Attributes:
        set: its name in a recipe (`train`, `in_domain`, ...) or `documents`.
        low, high: how many; None where it is not a matter of number.
        have: those at hand by the answers, for the training set; else None.
        kind: what they are.
        source: where the range comes from.
    """

    set: str
    low: int | None
    high: int | None
    have: int | None
    kind: str
    source: str

    @property
    def missing(self) -> int:
        """How many are still to be gathered, at least; 0 where those at hand are not known."""
        if self.low is None or self.have is None:
            return 0
        return max(0, self.low - self.have)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examples_to_collect(answers: Answers, *, tune: bool, retrieve: bool) -> tuple[Collected, ...]:
    """The sets that the verdict asks for, the one that takes longest first."""
    sets = []
    if tune:
        sets.append(_training_set(answers, retrieve))
    if retrieve:
        sets.append(
            Collected(
                "documents",
                None,
                None,
                None,
                "the documents that hold the facts, as text with headings, each with a title and a "
                "date, outdated ones removed",
                METHOD,
            )
        )
    sets.append(_test_set(answers, tune=tune, retrieve=retrieve))
    sets.append(
        Collected(
            "out_of_domain",
            100,
            200,
            None,
            "the same task as it is not in the examples: asked in other words, with typing errors, "
            "on topics that no example is about",
            f"{METHOD}; {INTERVALS}",
        )
    )
    if tune:
        sets.append(
            Collected(
                "retention",
                100,
                300,
                None,
                "what the base does well today and must still do: general questions and tasks, in "
                "your languages, with the answers it gives now or better ones",
                f"arXiv 2405.09673, what LoRA forgets; {INTERVALS}",
            )
        )
    return tuple(sets)


def _training_set(answers: Answers, retrieve: bool) -> Collected:
    if retrieve:
        low, high, source = 500, 5_000, RAFT
        kind = (
            "question, retrieved passages and the answer you want, which rests on the passages and "
            "cites them; in one of five the passages do not hold the answer and it says so"
        )
    elif answers.measure == "form":
        low, high, source = MIN_EXAMPLES_TO_TUNE, 1_000, f"{METHOD}; {LIMA}"
        kind = "question and the answer in exactly the form you want, every kind of question in it"
    else:
        low, high, source = 500, 2_000, f"{LIMA}; {METHOD}"
        kind = "question and the answer as your best expert would write it, all by one style guide"
    if answers.language == "other":  # a language is learnt besides, not a form alone
        low, high = 2 * low, 2 * high
    return Collected("train", low, high, answers.examples, kind, source)


def _test_set(answers: Answers, *, tune: bool, retrieve: bool) -> Collected:
    kind = "real questions with the answer you want, held out before anything is tuned or tried"
    if retrieve:
        kind += ", each with the passage that holds it; in one of ten no document does"
    if answers.measure == "judgement":
        kind += "; two people judge thirty of them, to see how far judgements agree"
    low, high = (100, 300) if tune or retrieve else (50, 100)
    return Collected(
        "in_domain",
        low,
        high,
        None,
        kind,
        f"{INTERVALS}; below {NO_VERDICT_BELOW} lorakit gives no verdict",
    )


def how_to_split(*, tune: bool) -> tuple[str, ...]:
    """How to keep sets apart, sentence by sentence."""
    sentences = (
        "Set the test questions aside first, by topic, document or person, not by chance: "
        "neighbours of a training row are no test.",
        "No question stands in two sets, reworded ones included.",
    )
    if not tune:
        return sentences
    return (
        *sentences,
        "Of the training rows 5 to 10 % are held out for validation (data.validation, with "
        "data.group for the column that must stay together).",
        "Read 50 training rows yourself: their bad habits are taught as well as their good ones.",
    )
