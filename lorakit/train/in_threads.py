"""Waiting for several answers at a time, and for a signal beside them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

POLL_SECONDS = 0.2

Answer = TypeVar("Answer")


def in_threads(
    asks: Sequence[Callable[[], Answer]],
    *,
    num_threads: int,
    while_waiting: Callable[[], None],
    on_done: Callable[[Answer], None],
) -> list[Answer]:
    """What each of `asks` returns, in their order.

    The first that fails ends the others, as does what `while_waiting` raises: no further one
    begins, and those under way are left to themselves. Their threads do not keep the process.

    Args:
        num_threads: how many are under way at a time.
        while_waiting: called every now and then.
        on_done: called with each answer as it comes.
    """
    waiting: queue.SimpleQueue[tuple[int, Callable[[], Answer]]] = queue.SimpleQueue()
    for item in enumerate(asks):
        waiting.put(item)
    done: queue.SimpleQueue[tuple[int, Future[Answer]]] = queue.SimpleQueue()
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            try:
                place, ask = waiting.get_nowait()
            except queue.Empty:
                return
            future: Future[Answer] = Future()
            try:
                future.set_result(ask())
            except BaseException as error:  # noqa: BLE001 - handed over, whatever it is
                future.set_exception(error)
            done.put((place, future))

    for _ in range(min(num_threads, len(asks))):
        threading.Thread(target=work, name="lorakit-ask", daemon=True).start()
    answers: dict[int, Answer] = {}
    try:
        while len(answers) < len(asks):
            while_waiting()
            try:
                place, future = done.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            answers[place] = future.result()
            on_done(answers[place])
    finally:
        is_over.set()
    return [answers[place] for place in range(len(asks))]
