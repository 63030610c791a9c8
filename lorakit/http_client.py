"""Requests over HTTP: once, or with patience where another try may help.

Nothing but the standard library speaks. A key is read from the environment, sent in the header of
requests to the named host and nowhere else: redirects are not followed.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from lorakit.errors import RecipeError, in_one_line

MAX_TRIES = 5
FIRST_WAIT_SECONDS = 1.0  # doubled after each try
LONGEST_WAIT_SECONDS = 60.0
# What another try may mend: timeouts, conflicts, too many requests, and faults of the server.
TRANSIENT = frozenset({408, 409, 425, 429})
MAX_QUOTED_BYTES = 2000  # of what a server says when it refuses

Answer = TypeVar("Answer")


class RequestError(Exception):
    """No answer, or one that refuses; whoever asked says what that means. Its text is the reason in
    a few words, none of them the server's.

    Attributes:
        status: of HTTP; None: no whole answer came.
        said: the server's words, without the key.
        timed_out: nothing came in time.
        wait: seconds that the server asks for before another try.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        said: str = "",
        timed_out: bool = False,
        wait: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.status, self.said, self.timed_out, self.wait = status, said, timed_out, wait

    @property
    def is_transient(self) -> bool:
        """Whether another try may help."""
        return self.status is None or self.status in TRANSIENT or self.status >= 500


def request(
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    timeout: float,
    max_bytes: int,
) -> bytes:
    """What a server answers.

    Args:
        body: sent as JSON by POST; None: GET.
        key: of an `Authorization: Bearer` header; None: there is none.
        timeout: seconds in which something must come.
        max_bytes: of the answer; what comes beyond is not read.

    Raises:
        RequestError: no answer, or one that refuses.
    """
    headers = {"User-Agent": "lorakit"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    asked = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers=headers,
        method="GET" if body is None else "POST",
    )
    # A proxy of the environment passes on what it cannot read; plain http goes straight.
    proxies = {k: v for k, v in urllib.request.getproxies().items() if k == "https"}
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler(proxies))
    try:
        with opener.open(asked, timeout=timeout) as response:
            content = response.read(max_bytes)
    except urllib.error.HTTPError as error:
        _refused(error, key)
    except (OSError, http.client.HTTPException) as error:  # unreachable, cut off, timed out
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise RequestError(in_one_line(error), timed_out=isinstance(cause, TimeoutError)) from error
    assert isinstance(content, bytes)
    return content


def with_patience(ask: Callable[[], Answer], *, sleep: Callable[[float], None]) -> Answer:
    """What `ask` gives, after as many tries as it takes, MAX_TRIES at most.

    Args:
        ask: raises RequestError where it gets no answer.
        sleep: waits so many seconds.

    Raises:
        RequestError: of the last try.
    """
    wait = FIRST_WAIT_SECONDS
    for tries_left in reversed(range(MAX_TRIES)):
        try:
            return ask()
        except RequestError as error:
            if not tries_left or not error.is_transient:
                raise
            sleep(min(max(wait, error.wait), LONGEST_WAIT_SECONDS))
            wait *= 2
    raise AssertionError("unreachable")


def api_key(variable: str | None, option: str) -> str | None:
    """The key that an environment variable holds; None where none is wanted.

    Args:
        option: of the recipe, that names the variable.

    Raises:
        RecipeError: the variable is not set, or holds what no header can.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    name = option.rpartition(".")[2]
    if not key:
        raise RecipeError(
            f"{option} names {variable!r}, which is not set in the environment. Set it to the key, "
            f"or remove {name} for an endpoint without one."
        )
    if not all("!" <= character <= "~" for character in key):  # else http.client prints it
        raise RecipeError(
            f"{option} names {variable!r}, which holds blanks, line breaks or letters beyond ASCII "
            "within the key; possible: printable ASCII. Set it to the key alone."
        )
    return key


def _refused(error: urllib.error.HTTPError, key: str | None) -> NoReturn:
    try:
        with error:
            said = error.read(MAX_QUOTED_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):  # the status is known, its words are not
        said = "its words were cut off"
    said = " ".join(said.replace(key, "***").split() if key else said.split())
    raise RequestError(
        f"HTTP {error.code}",
        status=error.code,
        said=said,
        wait=_seconds(error.headers.get("Retry-After")),
    ) from None


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
