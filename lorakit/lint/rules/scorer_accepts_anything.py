"""A scorer that gives right and wrong answers the same."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from lorakit.data.contract import Finding
from lorakit.evaluate.measures import primary_of
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import RowText, Sample
from lorakit.recipe.metric_names import scorer_of
from lorakit.tasks import ScoringOptions, scorer
from lorakit.tasks.json_schema import load_schema

ID = "scorer-accepts-anything"
SEVERITIES = ("warning", "note")
TITLE = "A scorer that gives right and wrong answers the same"
REASON = (
    "The metrics regex and json_schema do not look at the reference. A pattern that is found in "
    "nonsense and in the prompts themselves, a schema that every JSON value fits, or one that "
    "not one of the right answers fits, scores the base and the tuned model alike: a verdict "
    "that rests on it proves nothing. A reward of train.method grpo that any completion has "
    "teaches nothing. A warning where it is evaluate.primary or a reward; else a note. A pattern "
    "that forbids something ((?!...)) may be just what is meant, and is not told."
)
SOURCE = "practice"
EXAMPLE = "evaluate: {metrics: [loss, regex], primary: regex, regex: '.*'}"
MEND = "Say in the pattern or the schema what a right answer has, or use exact_match or token_f1."

FORMS = ("regex", "json_schema")
MIN_REFERENCES, MAX_REFERENCES = 10, 200
NEARLY_ALL = 0.95
JSON_VALUES = ("{}", "[]", "null", "true", "-7", '"zqx vlorb"', '{"zqx": ["vlorb", 3]}')
FORBIDS = ("(?!", "(?<!")


def find(facts: Facts) -> Iterator[Finding]:
    yield from _of_metrics(facts)
    if facts.is_policy:
        yield from _of_rewards(facts)


def _of_metrics(facts: Facts) -> Iterator[Finding]:
    evaluate = facts.recipe.evaluate
    schema = None if evaluate.json_schema is None else load_schema(evaluate.json_schema)
    options = ScoringOptions(evaluate.regex, schema)
    for metric in FORMS:
        if metric not in evaluate.metrics:
            continue
        decided: dict[str, list[str]] = {}
        for name, sample in _evaluated(facts):
            is_decided = scorer_of(primary_of(evaluate.primary, name)) == metric
            rows = [row for row in sample.chats if row.answer.strip()][:MAX_REFERENCES]
            what = _fault(metric, options, rows, is_decided=is_decided)
            if what is not None:
                decided.setdefault(what, []).extend([name] if is_decided else [])
        for what, names in decided.items():
            rests = (
                f"the verdict on {', '.join(names)} rests on it" if names else "it tells nothing"
            )
            message = f"evaluate.{metric} {what}; {rests}: say what a right answer has"
            yield Finding(ID, "warning" if names else "note", message, f"evaluate.{metric}")


def _of_rewards(facts: Facts) -> Iterator[Finding]:
    rows = [row for row in facts.train.chats if row.answer.strip()][:MAX_REFERENCES]
    for index, reward in enumerate(facts.recipe.grpo.named_rewards):
        if reward.scorer not in FORMS:
            continue
        given = reward.options[reward.scorer]
        is_pattern = reward.scorer == "regex"
        options = ScoringOptions(given) if is_pattern else ScoringOptions(None, load_schema(given))
        what = _fault(reward.scorer, options, rows, is_decided=False)
        if what is not None:
            message = (
                f"reward {reward.name} {what}; all completions have it, so nothing is learned from "
                "it: say what a right answer has"
            )
            yield Finding(ID, "warning", message, f"grpo.rewards.{index}")


def _evaluated(facts: Facts) -> Iterator[tuple[str, Sample]]:
    """(name, rows) of the sets whose answers are scored; in_domain may be the validation set."""
    for name, prepared in facts.sets.evaluation.items():
        for read, one in facts.held_out_sets.items():
            if one is prepared:
                yield name, facts.held_out[read]


def _fault(
    metric: str, options: ScoringOptions, rows: Sequence[RowText], *, is_decided: bool
) -> str | None:
    """What is wrong with the scorer on a set; None: it can tell, or there is too little to say."""
    if len(rows) < MIN_REFERENCES:
        return None
    references = [row.answer for row in rows]
    if is_decided and not _score(metric, options, references).any():
        return "is fulfilled by none of the right answers"
    wrong = list(JSON_VALUES) if metric == "json_schema" else _nonsense()
    if metric == "regex" and any(sign in (options.regex or "") for sign in FORBIDS):
        return None
    if not _score(metric, options, wrong).all():
        return None
    # Prompts as answers, on one line each: `.` does not match a line's end.
    prompts = [" ".join(row.prompt.split()) for row in rows if row.prompt.strip()]
    if metric == "regex" and _score(metric, options, prompts).mean() < NEARLY_ALL:
        return None
    if metric == "regex":
        return f"{options.regex!r} is found in any text, the prompts and nonsense too"
    return "accepts whatever is JSON, numbers and empty objects too"


def _score(metric: str, options: ScoringOptions, answers: list[str]) -> np.ndarray:
    return scorer(metric).scores(answers, answers, options)


def _nonsense() -> list[str]:
    """Answers that are right nowhere: a word, a sentence, and as long a text as none would be."""
    drawn = random.Random(0)
    made = ["".join(drawn.choices("bcdfghjklmnpqrstvwxz", k=6)) for _ in range(1_000)]
    return [made[0], " ".join(made[1:7]), "I do not know.", " ".join(made)]
