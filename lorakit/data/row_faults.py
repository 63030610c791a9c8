"""Faulty rows, gathered so that all of them can be told at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from lorakit.errors import DataError

PLACES_SHOWN = 5
FAULTS_SHOWN = 5  # different ones


@dataclass
class _Fault:
    count: int = 0
    places: list[str] = field(default_factory=list)


class RowFaults:
    """Counts the faults of the rows of one set while they go by."""

    def __init__(self) -> None:
        self._first: DataError | None = None
        self._count = 0
        self._by_message: dict[str, _Fault] = {}

    def add(self, location: str, error: DataError) -> None:
        """Take down what the row at `location` raised."""
        self._first = self._first or error
        self._count += 1
        message = str(error).removeprefix(f"{location}: ")
        if message not in self._by_message and len(self._by_message) >= FAULTS_SHOWN:
            return
        fault = self._by_message.setdefault(message, _Fault())
        fault.count += 1
        if len(fault.places) < PLACES_SHOWN:
            fault.places.append(location)

    @property
    def found(self) -> bool:
        """Whether any row had a fault so far."""
        return self._first is not None

    def refuse(self, num_sound: int) -> None:
        """Raise what was taken down, if anything was.

        Args:
            num_sound: rows without a fault.

        Raises:
            DataError: the fault of the only faulty row, or the count of all faulty ones with the
                first places of each kind.
        """
        if self._first is None:
            return
        if self._count == 1:
            raise self._first
        told = [f"{_places(fault)}: {message}" for message, fault in self._by_message.items()]
        others = self._count - sum(fault.count for fault in self._by_message.values())
        if others:
            told.append(f"{others} more rows have other faults.")
        head = f"{self._count} of {self._count + num_sound} rows cannot be used."
        raise DataError(" ".join([head, *told])) from self._first


def _places(fault: _Fault) -> str:
    shown, more = ", ".join(fault.places), fault.count - len(fault.places)
    if fault.count == 1:
        return shown
    return f"{fault.count} rows ({shown}{f' and {more} more' if more else ''})"
