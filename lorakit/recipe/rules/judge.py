"""What `evaluate.judge` may not say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorakit.recipe.metric_names import WIN_RATE
from lorakit.recipe.rules.fault import Fault, no_effect
from lorakit.recipe.rules.urls import url_rules

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe


def judge_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the judge, and of the metric that needs it."""
    judge, metrics = recipe.evaluate.judge, recipe.evaluate.metrics
    place = ("evaluate", "judge")
    if judge is None:
        if WIN_RATE in metrics:
            yield Fault(
                ("evaluate", "metrics", metrics.index(WIN_RATE)),
                f"{WIN_RATE!r} needs evaluate.judge; set it; possible: the url of an "
                "OpenAI-compatible endpoint and the name of a model",
            )
        return
    if WIN_RATE not in metrics:
        yield no_effect(place, f"evaluate.metrics lacks {WIN_RATE}", "name it there")
    yield from url_rules(
        (*place, "url"), judge.url, "api_key_env", judge.api_key_env, "http://localhost:8000/v1"
    )
    for name in ("model", "messages", "stream"):
        if name in judge.parameters:
            yield Fault(
                (*place, "parameters", name),
                "is not for parameters to say: the model is evaluate.judge.model, messages are "
                "lorakit's, and replies come whole. Remove it",
            )
