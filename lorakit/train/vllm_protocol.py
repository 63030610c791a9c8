"""What vLLM's server is asked and what it answers, as JSON.

Of vllm/entrypoints/openai (completion/protocol.py, completion/serving.py, models/serving.py), read
in November 2026.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.generate import SamplingSettings

SEEDS = 1 << 48  # vLLM adds a completion's place in its group, and takes 64 bits with a sign
# Choices of --max-lora-rank (vllm/config/lora.py).
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# What a request does not say is the model's generation_config.json's on the server.
PLAIN = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


@dataclass(frozen=True)
class ServedModel:
    """A model or an adapter that the server answers with.

    Attributes:
        name: as requests name it.
        root: where it was loaded from; None: not told.
        parent: the model that an adapter is of; None: it is a model.
        max_model_len: the most tokens of prompt and completion; None: not told.
    """

    name: str
    root: str | None
    parent: str | None
    max_model_len: int | None


@dataclass(frozen=True)
class Choice:
    """A completion as the server gives it.

    Attributes:
        prompt_ids: what it completes.
        token_ids: as drawn, a stop token that ended it included.
        logprobs: one for each.
        reason: "stop" or "length".
    """

    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    reason: str


def completion_body(
    model: str,
    prompt: Sequence[int],
    settings: SamplingSettings,
    *,
    count: int,
    limit: int,
    seed: int,
    stop_ids: Sequence[int],
) -> dict[str, Any]:
    """The request for completions of one prompt.

    Args:
        model: its name, or an adapter's.
        prompt: token ids.
        settings: of the sampling.
        count: so many.
        limit: the most tokens of a completion.
        seed: completion i draws with `seed + i`.
        stop_ids: all tokens that end a completion.
    """
    return PLAIN | {
        "model": model,
        "prompt": list(prompt),
        "n": count,
        "seed": seed % SEEDS,
        "max_tokens": limit,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": 0 if settings.top_k is None else settings.top_k,
        "min_p": 0.0 if settings.min_p is None else settings.min_p,
        "stop": list(settings.stop_strings),
        "stop_token_ids": list(stop_ids),
        "logprobs": 0,
        "return_token_ids": True,
    }


def probe_body(model: str, prompt: Sequence[int], **asked: Any) -> dict[str, Any]:
    """The request for one token of plain sampling, with what is asked of it besides."""
    own = {"model": model, "prompt": list(prompt), "n": 1, "seed": 0, "max_tokens": 1}
    return PLAIN | own | asked


# Each of these raises ValueError, LookupError, TypeError or AttributeError where an answer is not
# what vLLM's is.


def read_models(value: Any) -> list[ServedModel]:
    """Of an answer of /v1/models."""
    return [
        ServedModel(str(one["id"]), one.get("root"), one.get("parent"), one.get("max_model_len"))
        for one in value["data"]
    ]


def read_choices(value: Any) -> list[Choice]:
    """Of an answer of /v1/completions."""
    return [_choice(one) for one in value["choices"]]


def read_prompt_logprobs(value: Any, prompt: Sequence[int]) -> list[float]:
    """Of the prompt's tokens after its first."""
    at_places = value["choices"][0]["prompt_logprobs"][1:]
    tokens = zip(prompt[1:], at_places, strict=True)
    return [float(place[str(token)]["logprob"]) for token, place in tokens]


def words_of(said: str) -> str:
    """The message of an error as vLLM and FastAPI word it, in one line."""
    try:
        value = json.loads(said)
    except ValueError:
        value = said
    if isinstance(value, dict):
        inner = value.get("error", value)
        value = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
    return " ".join(str(value).split())[:300].rstrip(" .") or "no words"


def _choice(value: Mapping[str, Any]) -> Choice:
    token_ids, logprobs = value["token_ids"], value["logprobs"]["token_logprobs"]
    if token_ids is None:
        raise ValueError("no token ids")
    if not token_ids or len(token_ids) != len(logprobs):
        raise ValueError(f"{len(token_ids)} tokens with {len(logprobs)} log-probabilities")
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in logprobs):
        raise ValueError("a log-probability that is no number")
    reason = value["finish_reason"]
    if reason not in ("stop", "length"):
        raise ValueError(f"a completion that ended with {reason!r}")
    return Choice(
        list(value["prompt_token_ids"]),
        [int(token) for token in token_ids],
        [float(one) for one in logprobs],
        reason,
    )
