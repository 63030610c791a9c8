"""The verdict: a pure function of the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lorakit.plan.advise.collect import Collected, examples_to_collect, how_to_split
from lorakit.plan.advise.questions import Answers
from lorakit.plan.advise.rules import REASONS, TOO_FEW_EXAMPLES, Reason, Side
from lorakit.plan.advise.starting_recipe import starting_recipe

Verdict = Literal["fine-tune", "retrieve", "both", "neither"]
VERDICTS: dict[tuple[bool, bool], Verdict] = {
    (True, False): "fine-tune",
    (False, True): "retrieve",
    (True, True): "both",
    (False, False): "neither",
}


@dataclass(frozen=True)
class Advice:
    """What the answers lead to.

    Attributes:
        verdict: of `VERDICTS`.
        then: what it becomes once the training set is collected; None: it stays. Then nothing but
            the number of examples speaks against tuning.
        reasons: those that decided, for or against each side; they never disagree with the verdict.
        overruled: what speaks for a side that was not taken.
        notes: what to mind or to do first.
        collect: which examples to gather, the training set first.
        split: how to keep sets apart, sentence by sentence.
        recipe: YAML that `load_recipe` takes.
    """

    answers: Answers
    verdict: Verdict
    then: Verdict | None
    reasons: tuple[Reason, ...]
    overruled: tuple[Reason, ...]
    notes: tuple[str, ...]
    collect: tuple[Collected, ...]
    split: tuple[str, ...]
    recipe: str

    def to_json(self) -> dict[str, Any]:
        """The shape of `lorakit advise --json`."""
        return {
            "answers": self.answers.to_json(),
            "verdict": self.verdict,
            "then": self.then,
            "reasons": [one.to_json(self.answers) for one in self.reasons],
            "overruled": [one.to_json(self.answers) for one in self.overruled],
            "notes": list(self.notes),
            "collect": [one.to_json() for one in self.collect],
            "split": list(self.split),
            "recipe": self.recipe,
        }


def advise(answers: Answers) -> Advice:
    """Fine-tune, retrieve, both or neither, with the reasons and where to begin."""
    tune, for_tune, tune_overruled = _decide("tune", answers)
    retrieve, for_retrieve, retrieve_overruled = _decide("retrieve", answers)
    waits = bool(tune_overruled) and [one.id for one in for_tune] == [TOO_FEW_EXAMPLES]
    to_tune = tune or waits
    return Advice(
        answers=answers,
        verdict=VERDICTS[tune, retrieve],
        then=VERDICTS[True, retrieve] if waits else None,
        reasons=(*for_tune, *for_retrieve),
        overruled=(*tune_overruled, *retrieve_overruled),
        notes=tuple(text for applies, text in NOTES if applies(answers, to_tune, retrieve)),
        collect=examples_to_collect(answers, tune=to_tune, retrieve=retrieve),
        split=how_to_split(tune=to_tune),
        recipe=starting_recipe(answers, tune=to_tune, retrieve=retrieve),
    )


def _decide(side: Side, answers: Answers) -> tuple[bool, list[Reason], list[Reason]]:
    """Whether a side is taken, the reasons that decided it, and those that were overruled."""
    holding = [one for one in REASONS if one.side == side and one.applies(answers)]
    against = [one for one in holding if not one.speaks_for]
    for_it = [one for one in holding if one.speaks_for]
    return (False, against, for_it) if against else (True, for_it, [])


# (whether it is said, given the answers and whether to tune and to retrieve; what is said)
NOTES: tuple[tuple[Callable[[Answers, bool, bool], bool], str], ...] = (
    (
        lambda a, tune, retrieve: a.measure == "unknown",
        "Decide first how success is measured, and write the test questions before anything else: "
        "without them nothing here can be shown to help.",
    ),
    (
        lambda a, tune, retrieve: a.prompt == "untried",
        "Write a good prompt first: it is a day's work, the bar that all else must pass, and "
        "tells what is really missing.",
    ),
    (
        lambda a, tune, retrieve: tune and a.prompt == "works",
        "Let the long prompt that works write the training answers, check them, and train without "
        "the prompt: the tuned model then does the same with a short one.",
    ),
    (
        lambda a, tune, retrieve: tune and retrieve,
        "Train with retrieved passages in the prompt, some of them beside the point: a model tuned "
        "without them may ignore them later (arXiv 2403.10131).",
    ),
    (
        lambda a, tune, retrieve: retrieve and a.pressure != "none",
        "Retrieved passages make prompts longer. Fewer and shorter passages cost less; `lorakit "
        "compare` measures tokens and time of a call.",
    ),
    (
        lambda a, tune, retrieve: a.private and a.prompt in ("works", "nearly"),
        "If that prompt was tried on a hosted model, try it again on the one that you can run: "
        "smaller models hold prompts less well, and the answer to this question may change.",
    ),
    (
        lambda a, tune, retrieve: tune and a.hardware == "cpu" and not a.private,
        "Without a GPU only small bases train in sensible time. A rented one trains an 8B model "
        "in 4 bits for about $5 to $15; `lorakit plan` says what a recipe takes.",
    ),
    (
        lambda a, tune, retrieve: tune and a.hardware == "cpu" and a.private,
        "Without a GPU, and with data that may not leave, only a small base can be tuned: measure "
        "early whether it is able enough (`lorakit evaluate` shows base and tuned).",
    ),
    (
        lambda a, tune, retrieve: a.language == "other",
        "Choose a base that has read much of your language, and write test questions in it; a "
        "model's card lists its languages.",
    ),
    (
        lambda a, tune, retrieve: not tune and a.need != "knowledge" and not retrieve,
        "Keep what people ask and which answers were good: a few hundred of them are the training "
        "set, should the prompt not hold or the volume grow.",
    ),
)
