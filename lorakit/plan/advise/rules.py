"""What answers speak for and against: one row a reason, each with its source.

A side (to fine-tune, to retrieve) is taken where a reason speaks for it and none against it. What
speaks for a side that something speaks against is kept as overruled, so that a reader sees both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lorakit.plan.advise.questions import Answers

Side = Literal["tune", "retrieve"]

# Fewer good examples teach no reliable behaviour: a practitioners' rule, of no paper.
MIN_EXAMPLES_TO_TUNE = 200
# Calls a month from which training instead of prompting is worth its upkeep; no paper has it:
# at 2,000 tokens of instructions a call they are 20 million tokens a month, $4 at $0.20 a million,
# so that a run of $8 to $15 is paid back within months. `lorakit compare` measures instead.
MANY_CALLS = 10_000

TOO_FEW_EXAMPLES = "too-few-examples"

# Where the reasons come from.
METHOD = "practice"
KNOWLEDGE = "arXiv 2312.05934, retrieval beats fine-tuning for knowledge"
NEW_FACTS = "arXiv 2405.05904, training on new facts makes models invent"
LIMA = "arXiv 2305.11206, 1,000 chosen examples teach a style"
RAFT = "arXiv 2403.10131, train with retrieved passages in the prompt"
OWN_RULE = "lorakit's rule of thumb; `lorakit compare` measures it"


@dataclass(frozen=True)
class Reason:
    """One thing that answers say.

    Attributes:
        id: its name, the same in the docs.
        side, speaks_for: which side it concerns, and whether it is for or against it.
        answers: the questions it rests on.
        applies: whether it holds.
        text: why, in a sentence.
        source: who says so.
    """

    id: str
    side: Side
    speaks_for: bool
    answers: tuple[str, ...]
    applies: Callable[[Answers], bool]
    text: str
    source: str

    def to_json(self, answers: Answers) -> dict[str, object]:
        given = answers.to_json()
        return {
            "id": self.id,
            "side": self.side,
            "for": self.speaks_for,
            "answers": {name: given[name] for name in self.answers},
            "text": self.text,
            "source": self.source,
        }


def has_volume(answers: Answers) -> bool:
    return answers.calls >= MANY_CALLS


def prompt_will_do(answers: Answers) -> bool:
    """Whether a prompt is the better way to the behaviour, given its volume."""
    if answers.prompt == "works":
        return not (has_volume(answers) and answers.pressure != "none")
    if answers.prompt in ("nearly", "untried"):
        return not (has_volume(answers) or answers.pressure == "latency")
    return False


REASONS = (
    Reason(
        "behaviour-is-trained",
        "tune",
        True,
        ("need",),
        lambda a: a.need != "knowledge",
        "Format, style and fixed skills are what fine-tuning teaches: they then hold every time.",
        LIMA,
    ),
    Reason(
        "prompt-fails",
        "tune",
        True,
        ("need", "prompt"),
        lambda a: a.need != "knowledge" and a.prompt == "fails",
        "A behaviour that no prompt holds reliably is the best reason to fine-tune.",
        METHOD,
    ),
    Reason(
        "volume-pays",
        "tune",
        True,
        ("need", "calls"),
        lambda a: a.need != "knowledge" and has_volume(a),
        "At this volume instructions and examples in every prompt cost more than training once.",
        OWN_RULE,
    ),
    Reason(
        "shorter-prompts",
        "tune",
        True,
        ("need", "pressure"),
        lambda a: a.need != "knowledge" and a.pressure != "none",
        "A tuned model needs no instructions in its prompt: fewer tokens to pay and to wait for.",
        METHOD,
    ),
    Reason(
        "not-for-facts",
        "tune",
        False,
        ("need",),
        lambda a: a.need == "knowledge",
        "Fine-tuning teaches how to respond and is a poor way to put facts into a model; what it "
        "half learns it invents.",
        f"{KNOWLEDGE}; {NEW_FACTS}",
    ),
    Reason(
        TOO_FEW_EXAMPLES,
        "tune",
        False,
        ("examples",),
        lambda a: a.examples < MIN_EXAMPLES_TO_TUNE,
        f"Fewer than about {MIN_EXAMPLES_TO_TUNE} good examples teach no reliable behaviour; as "
        "few-shot examples in the prompt they help now.",
        METHOD,
    ),
    Reason(
        "prompt-works",
        "tune",
        False,
        ("prompt", "calls", "pressure"),
        lambda a: a.prompt == "works" and prompt_will_do(a),
        "The base already does it with a prompt, and at these calls a shorter one would not pay.",
        METHOD,
    ),
    Reason(
        "prompt-first",
        "tune",
        False,
        ("prompt", "calls", "pressure"),
        lambda a: a.prompt in ("nearly", "untried") and prompt_will_do(a),
        "At so few calls a better prompt with few-shot examples is cheaper to make, and to change.",
        OWN_RULE,
    ),
    Reason(
        "facts-are-looked-up",
        "retrieve",
        True,
        ("need",),
        lambda a: a.need != "behaviour",
        "Facts that the model lacks belong into its prompt, found for each question.",
        KNOWLEDGE,
    ),
    Reason(
        "sources-are-named",
        "retrieve",
        True,
        ("cite",),
        lambda a: a.cite,
        "An answer can cite only what stands in its prompt; without it a model invents sources.",
        METHOD,
    ),
    Reason(
        "facts-change",
        "retrieve",
        True,
        ("need", "facts"),
        lambda a: a.need != "behaviour" and a.facts in ("months", "days"),
        "Documents can be exchanged any day; weights stay as they were on the day of the training.",
        METHOD,
    ),
    Reason(
        "nothing-to-look-up",
        "retrieve",
        False,
        ("need", "cite"),
        lambda a: not a.looks_facts_up,
        "No facts are missing and no source is asked for: passages would only cost tokens.",
        METHOD,
    ),
    Reason(
        "facts-change-too-fast",
        "retrieve",
        False,
        ("need", "cite", "facts"),
        lambda a: a.looks_facts_up and a.facts == "hours",
        "No index of documents keeps up with facts that change several times a day: let the "
        "application ask their live source, and put (and cite) what it says in the prompt.",
        METHOD,
    ),
    Reason(
        "base-knows",
        "retrieve",
        False,
        ("need", "prompt", "facts", "cite"),
        lambda a: (
            a.need != "behaviour" and a.prompt == "works" and a.facts == "stable" and not a.cite
        ),
        "With a prompt the answers are right already, and the facts do not change.",
        METHOD,
    ),
)
