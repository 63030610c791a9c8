"""Chat completions of an OpenAI-compatible endpoint: one request at a time, with patience."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.errors import RunError, in_one_line
from lorakit.http_client import MAX_TRIES, RequestError, api_key, request, with_patience

TIMEOUT_SECONDS = 120.0
MAX_REPLY_BYTES = 4 << 20
# Of the address, the key or the model, so that no request will do better.
FINAL = frozenset({301, 302, 303, 307, 308, 401, 403, 404})

Message = Mapping[str, str]


class EndpointError(RunError):
    """The endpoint did not answer.

    Attributes:
        reason: in a few words, none of them the endpoint's.
        is_final: whether every other request would end alike.
        is_silent: whether every try ended without an answer; else this one request was refused.
    """

    def __init__(
        self, message: str, *, reason: str, is_final: bool = False, is_silent: bool = False
    ) -> None:
        super().__init__(message)
        self.reason, self.is_final, self.is_silent = reason, is_final, is_silent


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and whom.

    Attributes:
        url: requests go to `url/chat/completions`.
        model: as the endpoint names it.
        api_key_env: the environment variable that holds the key; None: no key is sent.
        parameters: what else a request says.
        sleep: waits so many seconds.
    """

    url: str
    model: str
    api_key_env: str | None = None
    parameters: Mapping[str, Any] | None = None
    sleep: Callable[[float], None] = time.sleep

    def body(self, messages: Sequence[Message]) -> dict[str, Any]:
        """What a request says: it decides the reply, so far as anything does."""
        return dict(self.parameters or {}) | {"model": self.model, "messages": list(messages)}

    def key(self) -> str | None:
        """The key, or None where none is wanted.

        Raises:
            RecipeError: the environment variable is not set, or holds what no header can.
        """
        return api_key(self.api_key_env, "evaluate.judge.api_key_env")

    def ask(self, messages: Sequence[Message]) -> str:
        """The reply, after as many tries as it takes.

        Raises:
            EndpointError: no reply, with the reason.
        """
        try:
            content = with_patience(lambda: self._try(messages), sleep=self.sleep)
        except RequestError as error:
            raise self._error(error) from error
        return self._text(content)

    def _try(self, messages: Sequence[Message]) -> bytes:
        return request(
            f"{self.url.rstrip('/')}/chat/completions",
            self.body(messages),
            key=self.key(),
            timeout=TIMEOUT_SECONDS,
            max_bytes=MAX_REPLY_BYTES,
        )

    def _error(self, error: RequestError) -> EndpointError:
        if error.is_transient:
            return EndpointError(
                f"the judge at {self.url} did not answer in {MAX_TRIES} tries: {error}. "
                "Try again later: what was judged is kept.",
                reason=str(error),
                is_silent=True,
            )
        return EndpointError(
            f"the judge at {self.url} refuses with {error}: {error.said[:300]}. Check "
            "evaluate.judge: url, model, api_key_env and parameters.",
            reason=str(error),
            is_final=error.status in FINAL,
        )

    def _text(self, content: bytes) -> str:
        try:
            text = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise EndpointError(
                f"what {self.url} answers is no chat completion ({in_one_line(error)}); possible: "
                "an OpenAI-compatible endpoint. Check evaluate.judge.url.",
                reason="no chat completion",
            ) from error
        return text if isinstance(text, str) else ""
