"""What `evaluate.judge` may not say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lorakit.recipe.metric_names import WIN_RATE
from lorakit.recipe.rules.fault import Fault, no_effect

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe

ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


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
    # What is wrong is not repeated: it may be a key, and a recipe is written into the run folder.
    try:
        parts = urlsplit(judge.url)
    except ValueError:  # such as half a pair of brackets
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield Fault(
            (*place, "url"),
            "is no http or https address; give one such as http://localhost:8000/v1",
        )
    elif parts.username or parts.password or parts.query or parts.fragment:
        yield Fault(
            (*place, "url"),
            "holds more than host, port and path, which may be a key; name the variable that holds "
            "the key in evaluate.judge.api_key_env",
        )
    elif parts.scheme == "http" and judge.api_key_env is not None and not _is_local(parts.hostname):
        yield Fault(
            (*place, "url"),
            "would carry the key of evaluate.judge.api_key_env unencrypted to another machine; "
            "give an https address, or forward a port of localhost to it, or remove api_key_env",
        )
    for name in ("model", "messages", "stream"):
        if name in judge.parameters:
            yield Fault(
                (*place, "parameters", name),
                "is not for parameters to say: the model is evaluate.judge.model, messages are "
                "lorakit's, and replies come whole. Remove it",
            )
    if judge.api_key_env is not None and not ENVIRONMENT_NAME.fullmatch(judge.api_key_env):
        yield Fault(
            (*place, "api_key_env"),
            "is no name of an environment variable; give the name, such as OPENAI_API_KEY, never "
            "the key itself",
        )


def _is_local(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
