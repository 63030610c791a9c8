"""A vLLM server, spoken to over its OpenAI-compatible interface; vllm itself is never imported.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve BASE --enable-lora --max-lora-rank R

Requests and answers are those of vllm/entrypoints/openai (completion/protocol.py and
models/serving.py, read in November 2026).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lorakit.errors import RunError, in_one_line
from lorakit.generate import SamplingSettings
from lorakit.http_client import MAX_TRIES, RequestError, api_key, request, with_patience

KEY_OPTION = "grpo.vllm_api_key_env"
# Of everything but completions: loading an adapter takes seconds.
SHORT_SECONDS = 120.0
POLL_SECONDS = 2.0  # between two looks whether the server is up
MAX_ANSWER_BYTES = 1 << 30
SEEDS = 1 << 48  # vLLM adds a completion's place in its group, and takes 64 bits with a sign
# What the engine was built for; its argument's choices in vllm/config/lora.py.
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
GO_ON = "Nothing is lost: mend it, and resume the run."

log = logging.getLogger(__name__)

Value = TypeVar("Value")


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
        token_ids: as drawn, a stop token that ended it included.
        logprobs: one for each.
        reason: "stop" or "length".
    """

    token_ids: list[int]
    logprobs: list[float]
    reason: str


@dataclass(frozen=True)
class VLLMServer:
    """Where it is.

    Attributes:
        url: it answers at `url/v1/...`.
        api_key_env: the environment variable that holds its key; None: it wants none.
        answer_seconds: what the completions of one prompt may take.
        sleep: waits so many seconds.
    """

    url: str
    api_key_env: str | None = None
    answer_seconds: float = 1800.0
    sleep: Callable[[float], None] = time.sleep

    def wait_until_up(self, seconds: float) -> list[ServedModel]:
        """What it answers with, once it answers.

        Raises:
            RunError: it did not in so many seconds, or refuses.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                return self._models(self._send("models", None, SHORT_SECONDS))
            except RequestError as error:
                if not error.is_transient:
                    raise self._refused("to name its models", error) from error
                if time.monotonic() >= until:
                    raise RunError(
                        f"no vLLM server answers at {self.url} within {seconds:g} seconds "
                        f"({error}). Start one (docs/grpo.md says how), correct "
                        "grpo.vllm_server_base_url, or raise grpo.vllm_server_timeout. " + GO_ON
                    ) from error
                log.info("waiting for the vLLM server at %s (%s)", self.url, error)
                self.sleep(min(POLL_SECONDS, max(0.0, until - time.monotonic())))

    def models(self) -> list[ServedModel]:
        """What it answers with now."""
        return self._models(self._ask("models", None, "to name its models"))

    def load(self, name: str, folder: Path, *, rank: int) -> None:
        """Have it read the adapter in `folder`, and answer with it by that name.

        Args:
            folder: absolute; the server must see it under the same path.
            rank: of the adapter, for advice.

        Raises:
            RunError: it did not, with what to do.
        """
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            with_patience(
                lambda: self._send("load_lora_adapter", body, SHORT_SECONDS), sleep=self.sleep
            )
        except RequestError as error:
            said = error.said.lower()
            if "already been loaded" in said:  # by a try whose answer was lost, or a killed run
                return
            advice = "Look at its log. "
            if error.status == 404 and "adapter" not in said:
                advice = (
                    "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its "
                    "environment. "
                )
            elif "no adapter found" in said:
                advice = (
                    f"The server must see {folder} under this very path: run it on this machine, "
                    "or put output.dir on a disk that both mount alike. "
                )
            elif "max_lora_rank" in said:
                enough = min((r for r in MAX_LORA_RANKS if r >= rank), default=rank)
                advice = f"Start it with --max-lora-rank {enough}. "
            raise self._refused("the adapter", error, advice) from error

    def unload(self, name: str) -> None:
        """Have it forget an adapter; one that it does not do so with is told in the log."""
        try:
            self._send("unload_lora_adapter", {"lora_name": name}, SHORT_SECONDS)
        except RequestError as error:
            log.warning(
                "the vLLM server at %s did not forget the adapter %s (%s %s); it is of no more use",
                self.url,
                name,
                error,
                _words(error.said),
            )

    def complete(
        self,
        model: str,
        prompt: Sequence[int],
        settings: SamplingSettings,
        *,
        count: int,
        limit: int,
        seed: int,
        stop_ids: Sequence[int],
    ) -> list[Choice]:
        """So many completions of one prompt.

        Args:
            model: its name, or an adapter's.
            prompt: token ids.
            settings: of the sampling.
            limit: the most tokens of a completion.
            seed: completion i draws with `seed + i`.
            stop_ids: all tokens that end a completion.

        Raises:
            RunError: it gave none, too few, or not what was asked for.
        """
        # All of them are said: the model's generation_config.json gives the server other defaults.
        body = {
            "model": model,
            "prompt": list(prompt),
            "n": count,
            "seed": seed % SEEDS,
            "max_tokens": limit,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": -1 if settings.top_k is None else settings.top_k,
            "min_p": 0.0 if settings.min_p is None else settings.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(settings.stop_strings),
            "stop_token_ids": list(stop_ids),
            "logprobs": 0,
            "return_token_ids": True,
        }
        return self._completions(body, self.answer_seconds)

    def only_logprob(self, model: str, prompt: Sequence[int], token: int) -> float:
        """The log-probability that it gives for the next token where no other one is allowed."""
        body = {
            "model": model,
            "prompt": list(prompt),
            "n": 1,
            "seed": 0,
            "max_tokens": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "allowed_token_ids": [token],
            "logprobs": 0,
            "return_token_ids": True,
        }
        (choice,) = self._completions(body, SHORT_SECONDS)
        if choice.token_ids != [token]:
            raise RunError(
                f"the vLLM server at {self.url} was allowed token {token} only and drew "
                f"{choice.token_ids}; possible: a vLLM that has allowed_token_ids. Use vLLM 0.10.2 "
                "or newer."
            )
        return choice.logprobs[0]

    def prompt_logprobs(self, model: str, prompt: Sequence[int]) -> list[float]:
        """Log-probabilities of a prompt's tokens after its first, at temperature 1."""
        body = {
            "model": model,
            "prompt": list(prompt),
            "n": 1,
            "max_tokens": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "prompt_logprobs": 0,
        }
        content = self._ask("completions", body, "a completion")

        def read(value: Any) -> list[float]:
            at_places = value["choices"][0]["prompt_logprobs"][1:]
            tokens = zip(prompt[1:], at_places, strict=True)
            return [float(place[str(token)]["logprob"]) for token, place in tokens]

        return self._read(content, read)

    def _completions(self, body: Mapping[str, Any], seconds: float) -> list[Choice]:
        content = self._ask("completions", body, "a completion", seconds)
        choices = self._read(content, lambda value: [_choice(one) for one in value["choices"]])
        if len(choices) != body["n"]:
            raise RunError(
                f"the vLLM server at {self.url} gave {len(choices)} of {body['n']} completions; "
                f"possible: all of them. Look at its log. {GO_ON}"
            )
        prompts = self._read(
            content, lambda value: [one["prompt_token_ids"] for one in value["choices"]]
        )
        if any(one != body["prompt"] for one in prompts):
            raise RunError(
                f"the vLLM server at {self.url} completed other tokens than it was sent; possible: "
                f"the very prompt. Look at its options. {GO_ON}"
            )
        return choices

    def _models(self, content: bytes) -> list[ServedModel]:
        return self._read(
            content,
            lambda value: [
                ServedModel(
                    str(one["id"]), one.get("root"), one.get("parent"), one.get("max_model_len")
                )
                for one in value["data"]
            ],
        )

    def _read(self, content: bytes, read: Callable[[Any], Value]) -> Value:
        try:
            return read(json.loads(content))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RunError(
                f"what {self.url} answers is not what vLLM answers ({in_one_line(error)}); "
                "possible: vLLM 0.10.2 or newer, the first with return_token_ids. Check "
                f"grpo.vllm_server_base_url and the server's version. {GO_ON}"
            ) from error

    def _ask(
        self, path: str, body: Mapping[str, Any] | None, what: str, seconds: float = SHORT_SECONDS
    ) -> bytes:
        def ask() -> bytes:
            try:
                return self._send(path, body, seconds)
            except RequestError as error:
                if error.timed_out:  # another try would wait as long, and add to its work
                    raise self._refused(what, error) from error
                raise

        try:
            return with_patience(ask, sleep=self.sleep)
        except RequestError as error:
            raise self._refused(what, error) from error

    def _send(self, path: str, body: Mapping[str, Any] | None, seconds: float) -> bytes:
        return request(
            f"{self.url.rstrip('/').removesuffix('/v1')}/v1/{path}",
            body,
            key=api_key(self.api_key_env, KEY_OPTION),
            timeout=seconds,
            max_bytes=MAX_ANSWER_BYTES,
        )

    def _refused(self, what: str, error: RequestError, advice: str = "") -> RunError:
        server = f"the vLLM server at {self.url}"
        if error.timed_out:
            return RunError(
                f"{server} did not answer in time when asked for {what}; possible: "
                f"{self.answer_seconds:g} seconds for the completions of a prompt "
                "(grpo.vllm_answer_seconds). Look at its log, raise that, or lower grpo.max_batch. "
                + GO_ON
            )
        if error.status is None:
            return RunError(
                f"{server} did not answer in {MAX_TRIES} tries when asked for {what}: {error}. "
                f"See whether it still runs. {GO_ON}"
            )
        if error.status in (401, 403):
            advice = (
                f"Name the variable that holds its key (vllm serve --api-key) in {KEY_OPTION}. "
            )
        elif error.status == 404 and not advice:
            advice = (
                "It does not know the adapter (was it started anew?), or is no vLLM server: check "
                "grpo.vllm_server_base_url. "
            )
        return RunError(
            f"{server} refuses {what} with {error}: {_words(error.said)}. {advice}{GO_ON}"
        )


def _choice(value: Mapping[str, Any]) -> Choice:
    """Raises ValueError and the like where it is not whole."""
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
    return Choice([int(token) for token in token_ids], [float(one) for one in logprobs], reason)


def _words(said: str) -> str:
    """The message of an error as vLLM and FastAPI word it, in one line."""
    try:
        value = json.loads(said)
    except ValueError:
        value = said
    if isinstance(value, dict):
        inner = value.get("error", value)
        if isinstance(inner, dict):
            value = inner.get("message", inner.get("detail", inner))
    return " ".join(str(value).split())[:300].rstrip(" .") or "no words"
