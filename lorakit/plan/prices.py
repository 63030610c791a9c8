"""What machines and API calls cost: a dated table that users replace with their own numbers.

`prices.yaml` beside this file is the example; a file of the user's own is laid over it, entry by
entry. Nothing here is looked up anywhere.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, ValidationError

from lorakit.errors import InputError
from lorakit.plan.gpus import find_gpu, nearest
from lorakit.recipe.text import parse_text, read_text

EXAMPLE = Path(__file__).with_name("prices.yaml")
FILE_NAME = "prices.yaml"
CPU = "cpu"
SECONDS_PER_HOUR = 3600
TOKENS_PER_PRICE = 1_000_000


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    date: datetime.date = Field(description="When the price was looked up.")
    source: str = Field("", description="Address of the page it was read on.")
    note: str = ""


class HourPrice(_Entry):
    """What one machine costs for one hour, in the table's currency."""

    price: NonNegativeFloat


class ApiPrice(_Entry):
    """What a hosted model costs per million tokens, in the table's currency."""

    input: NonNegativeFloat
    output: NonNegativeFloat

    def of_call(self, input_tokens: float, output_tokens: float) -> float:
        """Of one call; tokens may be means."""
        return (self.input * input_tokens + self.output * output_tokens) / TOKENS_PER_PRICE


class Electricity(_Entry):
    """What a kWh costs, and the watts that machines of one's own draw under load."""

    price: NonNegativeFloat
    watts: dict[str, NonNegativeFloat]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    currency: str
    gpu_hour: dict[str, HourPrice]
    cpu_hour: HourPrice | None
    electricity: Electricity | None
    api: dict[str, ApiPrice]


@dataclass(frozen=True)
class Cost:
    """A sum, and what it rests on.

    Attributes:
        amount: in `currency`.
        basis: in words: the price, its date, its source and its note.
    """

    amount: float
    currency: str
    basis: str


@dataclass(frozen=True)
class Prices:
    """A table of prices.

    Attributes:
        currency: of all of them.
        gpu_hour: {name of a GPU, see `find_gpu`: one of it for an hour}.
        cpu_hour: a machine without a GPU, or None.
        electricity: of machines of one's own, or None.
        api: {name: a hosted model}.
        source: the file that was laid over the examples, or that of the examples.
    """

    currency: str
    gpu_hour: Mapping[str, HourPrice]
    cpu_hour: HourPrice | None
    electricity: Electricity | None
    api: Mapping[str, ApiPrice]
    source: Path

    def of_machine(self, machine: str, seconds: float, *, count: int = 1) -> Cost | None:
        """What `count` machines cost for so many seconds; None: the table does not have them.

        Args:
            machine: "cpu", or the name of a GPU.
        """
        hours = count * seconds / SECONDS_PER_HOUR
        power = self.electricity
        if power is not None and machine in power.watts:
            watts = power.watts[machine]
            basis = f"{power.price:g} {self.currency} a kWh, {watts:g} W"
            return self._cost(hours * watts / 1000 * power.price, basis, power)
        entry = self.cpu_hour if machine == CPU else self.gpu_hour.get(machine)
        if entry is None:
            return None
        return self._cost(hours * entry.price, f"{entry.price:g} {self.currency} an hour", entry)

    def api_price(self, name: str) -> ApiPrice:
        """The price of a hosted model.

        Raises:
            InputError: it has none.
        """
        if name not in self.api:
            raise InputError(
                f"{self.source} has no price for api {name!r}; possible: {', '.join(self.api)}."
                f"{_hint(name, self.api)} Add it there, or to a file of your own (--prices)."
            )
        return self.api[name]

    def _cost(self, amount: float, basis: str, entry: _Entry) -> Cost:
        page = f" at {entry.source}" if entry.source else ""
        note = f"; {entry.note}" if entry.note else ""
        return Cost(amount, self.currency, f"{basis}, looked up on {entry.date}{page}{note}")


def load_prices(path: Path | None = None) -> Prices:
    """The prices to reckon with.

    Args:
        path: a file of the user's; None: `prices.yaml` in their config folder, where there is one.

    Raises:
        InputError: a file that cannot be read, an unknown key (the nearest known one is named), or
            a value that is no price.
    """
    values = _read(EXAMPLE)
    source = path
    if source is None and user_file().is_file():
        source = user_file()
    if source is not None:
        values = _laid_over(values, _read(source))
    source = source or EXAMPLE
    try:
        table = _Table.model_validate(values)
    except ValidationError as error:
        raise InputError(_in_words(error, source)) from None
    gpu_hour = {_gpu_name(name, source): price for name, price in table.gpu_hour.items()}
    electricity = table.electricity
    if electricity is not None:
        watts = {n if n == CPU else _gpu_name(n, source): w for n, w in electricity.watts.items()}
        electricity = electricity.model_copy(update={"watts": watts})
    return Prices(table.currency, gpu_hour, table.cpu_hour, electricity, table.api, source)


def user_file() -> Path:
    """Where a user's own prices are looked for; the file need not be there.

    The XDG rule; on Windows and macOS where their programs keep settings.
    """
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or str(Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Application Support")
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "lorakit" / FILE_NAME


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            f"prices {str(path)!r}: no such file. Copy {EXAMPLE} there and edit it, or leave "
            "--prices out."
        )
    values, _ = parse_text(read_text(path), str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(
            f"{path} is {type(values).__name__}, not keys with values; its keys: "
            f"{', '.join(_Table.model_fields)}. {EXAMPLE} is an example."
        )
    return values


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Entries of `above` in place of those of `below`; other currencies start from nothing."""
    if above.get("currency", below["currency"]) != below["currency"]:
        below = {"gpu_hour": {}, "cpu_hour": None, "electricity": None, "api": {}}
    laid = below | above
    for section in ("gpu_hour", "api"):
        own = above.get(section, {})
        if isinstance(own, dict):
            laid[section] = below[section] | own
    return laid


def _gpu_name(name: str, source: Path) -> str:
    try:
        return find_gpu(name).name
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _in_words(error: ValidationError, source: Path) -> str:
    lines = []
    for found in error.errors(include_url=False):
        *parents, key = map(str, found["loc"])
        where = ".".join([*parents, key])
        if found["type"] == "extra_forbidden":
            known = _known_keys(parents)
            lines.append(
                f"{source}: {where} is not a key; possible: {', '.join(known)}.{_hint(key, known)}"
            )
        elif found["type"] == "missing":
            lines.append(f"{source}: {where} is missing. {EXAMPLE} is an example.")
        else:
            message = found["msg"].removeprefix("Input ")
            lines.append(f"{source}: {where} {message[:1].lower()}{message[1:]}. Correct it.")
    return "\n  ".join(lines)


def _known_keys(parents: list[str]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "gpu_hour": HourPrice,
        "cpu_hour": HourPrice,
        "electricity": Electricity,
        "api": ApiPrice,
    }
    model = sections[parents[0]] if parents else _Table
    return list(model.model_fields)


def _hint(name: str, possible: Mapping[str, Any] | list[str]) -> str:
    near = nearest(name, possible)
    return f" Did you mean {near}?" if near else ""
