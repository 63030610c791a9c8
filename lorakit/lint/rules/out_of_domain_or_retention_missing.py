"""No out-of-domain or no retention set."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding, Severity
from lorakit.lint.facts import Facts

ID = "out-of-domain-or-retention-missing"
SEVERITIES = ("warning", "note")
TITLE = "No out-of-domain or no retention set"
REASON = (
    "95 % on questions like the training questions can still be over-fitting: rephrased "
    "questions and unseen topics (out_of_domain) show it. Narrow tuning costs general "
    "ability, and only a retention set shows how much. One of the two missing is a note, both a "
    "warning: nothing then shows what tuning cost."
)
SOURCE = "practice; unsloth#1123, #713, #2502: forgetting goes unnoticed"
EXAMPLE = "evaluate: {in_domain: test.jsonl}"
MEND = (
    "Name evaluate.out_of_domain (rephrased questions, unseen topics) and evaluate.retention "
    "(general questions the base answers well)."
)


def find(facts: Facts) -> Iterator[Finding]:
    evaluate = facts.recipe.evaluate
    missing = {
        "out_of_domain": "whether it learned more than the questions it saw",
        "retention": "what it forgot",
    }
    lacking = [name for name in missing if getattr(evaluate, name) is None]
    # Topics that training does not see, or prompts in words that it does not.
    stand_in = facts.recipe.data.hold_out_topics is not None or bool(evaluate.variants)
    if stand_in and "out_of_domain" in lacking:
        lacking.remove("out_of_domain")
    if lacking:
        message = (
            f"no {' and no '.join(lacking)} set: {' and '.join(missing[name] for name in lacking)} "
            "will not be measured; name rows as "
            + " and ".join(f"evaluate.{name}" for name in lacking)
        )
        severity: Severity = "warning" if len(lacking) == len(missing) else "note"
        yield Finding(ID, severity, message, "evaluate")
