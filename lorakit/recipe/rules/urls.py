"""What an address of a server may not say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from lorakit.recipe.rules.fault import Fault

ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def url_rules(
    place: tuple[str | int, ...], url: str, key: str, variable: str | None, example: str
) -> Iterator[Fault]:
    """The rules of an address and of its key.

    Args:
        place: of the address in the recipe.
        key: the option beside it that names the environment variable with the key.
        variable: that it names; None: there is no key.
        example: of an address.
    """
    # What is wrong is not repeated: it may be a key, and a recipe is written into the run folder.
    beside = (*place[:-1], key)
    option = ".".join(map(str, beside))
    try:
        parts = urlsplit(url)
    except ValueError:  # such as half a pair of brackets
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield Fault(place, f"is no http or https address; give one such as {example}")
    elif parts.username or parts.password or parts.query or parts.fragment:
        yield Fault(
            place,
            "holds more than host, port and path, which may be a key; name the variable that holds "
            f"the key in {option}",
        )
    elif parts.scheme == "http" and variable is not None and not _is_local(parts.hostname):
        yield Fault(
            place,
            f"would carry the key of {option} unencrypted to another machine; "
            f"give an https address, or forward a port of localhost to it, or remove {key}",
        )
    if variable is not None and not ENVIRONMENT_NAME.fullmatch(variable):
        yield Fault(
            beside,
            "is no name of an environment variable; give the name, such as OPENAI_API_KEY, never "
            "the key itself",
        )


def _is_local(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
