"""An iterator that works ahead in a thread of its own, so that its work overlaps its consumer's."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.1  # how soon the thread notices that nobody wants more


def ahead(items: Iterable[Item], *, depth: int = 1) -> Generator[Item, None, None]:
    """Yield `items`, of which up to `depth` are made before they are asked for.

    What the iterator raises is raised here, in its place. When the consumer stops early, the thread
    ends after the item it is at.
    """
    slots: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    unwanted = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not unwanted.is_set():
            try:
                slots.put((kind, value), timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def work() -> None:
        iterator = iter(items)
        while not unwanted.is_set():
            try:
                item = next(iterator)
            except StopIteration:
                put("end", None)
                return
            except BaseException as error:  # noqa: BLE001  # handed over, whatever it is
                put("error", error)
                return
            put("item", item)

    worker = threading.Thread(target=work, name="lorakit-ahead", daemon=True)
    worker.start()
    try:
        while True:
            kind, value = slots.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        unwanted.set()
        worker.join()
