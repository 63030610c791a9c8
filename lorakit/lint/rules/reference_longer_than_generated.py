"""Reference answers longer than what is generated."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.evaluate.measures import UNANSWERED, primary_of
from lorakit.lint.facts import Facts

ID = "reference-longer-than-generated"
SEVERITIES = ("warning", "note")
TITLE = "Reference answers longer than what is generated"
REASON = (
    "Answers of the evaluation stop at evaluate.max_new_tokens; where the reference answers "
    "are longer, scores such as token_f1 and rouge_l fall for base and tuned model alike, and "
    "less is seen of the difference. From half of the references on it is a warning; for "
    "retention only where its verdict rests on answers, since general answers are longer than "
    "those of a task."
)
SOURCE = "practice"
EXAMPLE = "evaluate: {metrics: [rouge_l], max_new_tokens: 64}   # answers of 200 tokens"
MEND = "Raise evaluate.max_new_tokens to the length of most references."

TOLD, MANY = 0.1, 0.5


def find(facts: Facts) -> Iterator[Finding]:
    evaluate = facts.recipe.evaluate
    if not set(evaluate.metrics) - {"loss", "perplexity"}:
        return
    for name, prepared in facts.held_out_sets.items():
        if not any(prepared is one for one in facts.sets.evaluation.values()):
            continue  # validation: its loss alone is measured
        asked = prepared.examples.lengths - prepared.examples.trained_lengths > 1
        longer = (prepared.examples.trained_lengths > evaluate.max_new_tokens) & asked
        share = float(longer.mean())
        if share >= TOLD:
            needed = int(sorted(prepared.examples.trained_lengths)[int(0.9 * len(longer))])
            message = (
                f"{name}: {share:.0%} of the reference answers are longer than max_new_tokens "
                f"{evaluate.max_new_tokens}, so scores fall whatever the model learned; "
                f"{needed} would hold nine of ten"
            )
            severity = "warning" if share >= MANY and _matters(facts, name) else "note"
            yield Finding(ID, severity, message, "evaluate.max_new_tokens")  # type: ignore[arg-type]


def _matters(facts: Facts, name: str) -> bool:
    """Whether answers of the set are what somebody looks at."""
    return name != "retention" or primary_of(facts.recipe.evaluate.primary, name) not in UNANSWERED
