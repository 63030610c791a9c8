"""Chat completions of an OpenAI-compatible endpoint: one request at a time, with patience.

Nothing but the standard library speaks to it. The key is read from the environment, sent in the
header of requests to the named host and nowhere else: redirects are not followed.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lorakit.errors import RecipeError, RunError, in_one_line

TIMEOUT_SECONDS = 120.0
MAX_TRIES = 5
FIRST_WAIT_SECONDS = 1.0  # doubled after each try
LONGEST_WAIT_SECONDS = 60.0
MAX_REPLY_BYTES = 4 << 20
# What another try may mend: timeouts, conflicts, too many requests, and faults of the server.
TRANSIENT = frozenset({408, 409, 425, 429})
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
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise RecipeError(
                f"evaluate.judge.api_key_env names {self.api_key_env!r}, which is not set in the "
                "environment. Set it to the key, or remove api_key_env for an endpoint without one."
            )
        if not all("!" <= character <= "~" for character in key):  # else http.client prints it
            raise RecipeError(
                f"evaluate.judge.api_key_env names {self.api_key_env!r}, which holds blanks, line "
                "breaks or letters beyond ASCII within the key; possible: printable ASCII. Set it "
                "to the key alone."
            )
        return key

    def ask(self, messages: Sequence[Message]) -> str:
        """The reply, after as many tries as it takes, MAX_TRIES at most.

        Raises:
            EndpointError: no reply, with the reason.
        """
        wait = FIRST_WAIT_SECONDS
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                return self._try(messages)
            except _TransientError as error:
                if not tries_left:
                    raise EndpointError(
                        f"the judge at {self.url} did not answer in {MAX_TRIES} tries: {error}. "
                        "Try again later: what was judged is kept.",
                        reason=str(error),
                        is_silent=True,
                    ) from error
                self.sleep(min(max(wait, error.wait), LONGEST_WAIT_SECONDS))
                wait *= 2
        raise AssertionError("unreachable")

    def _try(self, messages: Sequence[Message]) -> str:
        headers = {"Content-Type": "application/json", "User-Agent": "lorakit"}
        key = self.key()
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions",
            data=json.dumps(self.body(messages)).encode(),
            headers=headers,
            method="POST",
        )
        # A proxy of the environment passes on what it cannot read; plain http goes straight.
        proxies = {k: v for k, v in urllib.request.getproxies().items() if k == "https"}
        opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler(proxies))
        try:
            with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                content = response.read(MAX_REPLY_BYTES)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except (OSError, http.client.HTTPException) as error:  # unreachable, cut off, timed out
            raise _TransientError(in_one_line(error)) from error
        return self._text(content)

    def _refused(self, error: urllib.error.HTTPError) -> NoReturn:
        try:
            with error:
                said = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):  # the status is known, its words are not
            said = "its words were cut off"
        key = self.key()
        said = " ".join(said.replace(key, "***").split() if key else said.split())
        if error.code in TRANSIENT or error.code >= 500:
            raise _TransientError(f"HTTP {error.code}", _seconds(error.headers.get("Retry-After")))
        raise EndpointError(
            f"the judge at {self.url} refuses with HTTP {error.code}: {said[:300]}. Check "
            "evaluate.judge: url, model, api_key_env and parameters.",
            reason=f"HTTP {error.code}",
            is_final=error.code in FINAL,
        ) from None

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


class _TransientError(Exception):
    """Another try may help, after `wait` seconds at least."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address: it is told as the status it is."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _seconds(header: str | None) -> float:
    """The seconds of a Retry-After header; a date in it counts as none."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
