"""A vLLM server, spoken to over its OpenAI-compatible interface; vllm itself is never imported.

VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve BASE --enable-lora --max-lora-rank R
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lorakit.errors import RunError, in_one_line
from lorakit.http_client import MAX_TRIES, RequestError, api_key, request, with_patience
from lorakit.train.vllm_protocol import (
    MAX_LORA_RANKS,
    Choice,
    ServedModel,
    probe_body,
    read_choices,
    read_models,
    read_prompt_logprobs,
    words_of,
)

KEY_OPTION = "grpo.vllm_api_key_env"
# Of everything but completions: loading an adapter takes seconds.
SHORT_SECONDS = 120.0
POLL_SECONDS = 2.0  # between two looks whether the server is up
MAX_ANSWER_BYTES = 1 << 30
GO_ON = "Nothing is lost: mend it, and resume the run."

log = logging.getLogger(__name__)

Value = TypeVar("Value")


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

    def wait_until_up(self, seconds: float, while_waiting: Callable[[], None]) -> list[ServedModel]:
        """What it answers with, once it answers.

        Args:
            while_waiting: called now and then; what it raises ends the waiting.

        Raises:
            RunError: it did not in so many seconds, or refuses.
        """
        until = time.monotonic() + seconds
        while True:
            while_waiting()
            try:
                return self._read(self._send("models", None, SHORT_SECONDS), read_models)
            except RequestError as error:
                if not error.is_transient:
                    raise self._refused("its models", error) from error
                if time.monotonic() >= until:
                    raise RunError(
                        f"no vLLM server answers at {self.url} within {seconds:g} seconds "
                        f"({error}). Start one (docs/grpo.md says how), correct "
                        "grpo.vllm_server_base_url, or raise grpo.vllm_server_timeout. " + GO_ON
                    ) from error
                log.info("waiting for the vLLM server at %s (%s)", self.url, error)
                self.sleep(min(POLL_SECONDS, max(0.0, until - time.monotonic())))

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
            # By a try whose answer was lost. A name is that of the weights: these are the ones.
            if "already been loaded" in error.said.lower():
                return
            advice = _advice_on_loading(error, folder, rank)
            raise self._refused("the adapter", error, advice) from error

    def unload(self, name: str) -> None:
        """Have it forget an adapter; where it does not, the log says so, and nothing depends on
        it."""
        try:
            self._send("unload_lora_adapter", {"lora_name": name}, SHORT_SECONDS)
        except RequestError as error:
            log.warning(
                "the vLLM server at %s did not forget adapter %s, of no use now (%s: %s)",
                self.url,
                name,
                error,
                words_of(error.said),
            )

    def complete(self, body: Mapping[str, Any]) -> list[Choice]:
        """Completions of one prompt.

        Args:
            body: see `completion_body`.

        Raises:
            RunError: it gave none, too few, or not what was asked for.
        """
        count = body["n"]
        choices = self._read(self._ask(body, self.answer_seconds), read_choices)
        if len(choices) != count:
            raise RunError(
                f"the vLLM server at {self.url} gave {len(choices)} of {count} completions; "
                f"possible: all of them. Look at its log. {GO_ON}"
            )
        if any(choice.prompt_ids != body["prompt"] for choice in choices):
            raise RunError(
                f"the vLLM server at {self.url} completed other tokens than it was sent; possible: "
                f"the very prompt. Look at its options. {GO_ON}"
            )
        return choices

    def only_logprob(self, model: str, prompt: Sequence[int], token: int) -> float:
        """The log-probability that it gives for the next token where no other one is allowed.

        Raises:
            RunError: it gave none.
        """
        body = probe_body(
            model, prompt, allowed_token_ids=[token], logprobs=0, return_token_ids=True
        )
        choices = self._read(self._ask(body, SHORT_SECONDS), read_choices)
        drawn = [choice.token_ids for choice in choices]
        if drawn != [[token]]:
            raise RunError(
                f"the vLLM server at {self.url} was allowed token {token} only and drew {drawn}; "
                "possible: a vLLM that has allowed_token_ids. Use vLLM 0.10.2 or newer."
            )
        return choices[0].logprobs[0]

    def prompt_logprobs(self, model: str, prompt: Sequence[int]) -> list[float]:
        """Log-probabilities of a prompt's tokens after its first, at temperature 1.

        Raises:
            RunError: it gave none.
        """
        content = self._ask(probe_body(model, prompt, prompt_logprobs=0), SHORT_SECONDS)
        return self._read(content, lambda value: read_prompt_logprobs(value, prompt))

    def _read(self, content: bytes, read: Callable[[Any], Value]) -> Value:
        try:
            return read(json.loads(content))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RunError(
                f"what {self.url} answers is not what vLLM answers ({in_one_line(error)}); "
                "possible: vLLM 0.10.2 or newer, the first with return_token_ids. Check "
                f"grpo.vllm_server_base_url and the server's version. {GO_ON}"
            ) from error

    def _ask(self, body: Mapping[str, Any], seconds: float) -> bytes:
        what = "a completion"

        def ask() -> bytes:
            try:
                return self._send("completions", body, seconds)
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
            f"{server} refuses {what} with {error}: {words_of(error.said)}. {advice}{GO_ON}"
        )


def _advice_on_loading(error: RequestError, folder: Path, rank: int) -> str:
    """By what vLLM says, in its words."""
    said = error.said.lower()
    if error.status == 404 and "adapter" not in said:  # there is no such path at all
        return (
            "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its "
            "environment. "
        )
    if "no adapter found" in said:
        return (
            f"The server must see {folder} under this very path: run it on this machine, or put "
            "output.dir on a disk that both mount alike. "
        )
    if "max_lora_rank" in said:
        enough = min((r for r in MAX_LORA_RANKS if r >= rank), default=rank)
        return f"Start it with --max-lora-rank {enough}. "
    return "Look at its log. "
