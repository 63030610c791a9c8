"""The built-in instruction data: loose messages about patients, and the notes the house wants.

`python -m lorakit.builtin.ward_notes` writes the five sets again, byte for byte.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lorakit.builtin.arithmetic import arithmetic, small_sums
from lorakit.builtin.clinic import clinical_chat
from lorakit.builtin.document import Document
from lorakit.builtin.instructions import instruction
from lorakit.builtin.records import record
from lorakit.builtin.row_files import Row, chat_row, write_command
from lorakit.builtin.ward_cases import draw_case, draw_untold
from lorakit.builtin.ward_messages import ward_message
from lorakit.builtin.ward_phrases import UNSEEN_PHRASES, Phrases
from lorakit.builtin.ward_style import HEADINGS, bare, house_note, section_orders
from lorakit.builtin.ward_topics import Topic, trained_topics, unseen_topics
from lorakit.builtin.ward_wordings import TRAINED_PHRASES

SEED = 0
TRAIN_PER_TOPIC, HELD_OUT_ROWS = 16, 100
# Share of the messages that ask for an order of sections; more in training, where many are learned.
TRAIN_ASKED, ASKED = 0.65, 0.3
# Share of those whose facts are few, since the order takes its part of the length.
BRIEF = 0.7
# What `Phrases.longest` counts: about a token of the built-in base, but without its tokenizer, so
# that the rows do not change with it.
_PIECE = re.compile(r"[A-Za-z]{1,6}|\d| (?=\d)|[^\w ]")
# Two messages are near when they share this much of their pairs of words.
NEAR = 0.5
# What the base could do before: part of its corpus -> rows.
RETENTION: dict[str, tuple[Callable[..., Document], int]] = {
    "instructions": (instruction, 25),
    "clinic": (clinical_chat, 25),
    "records": (record, 25),
    "sums": (small_sums, 15),
    "arithmetic": (arithmetic, 10),
}
# Rows of the general set for each one of retention.
GENERAL_TIMES = 8
T = TypeVar("T")


def ward_sets(seed: int = SEED) -> dict[str, list[Row]]:
    """The rows of `train`, `in_domain`, `out_of_domain`, `retention` and `general`.

    Each row has `messages`, `topic`, and `order`: `default`, or the headings asked for; in
    `retention` and `general` it is `none`.
    """
    trained_orders, held_out_orders = section_orders(seed)
    draw = _WardRows(seed)
    retained: set[str] = set()
    return {
        "train": draw.rows(
            "train",
            TRAINED_PHRASES,
            list(trained_topics()) * TRAIN_PER_TOPIC,
            trained_orders,
            asked=TRAIN_ASKED,
        ),
        "in_domain": draw.rows(
            "in_domain",
            TRAINED_PHRASES,
            _in_turn(trained_topics(), HELD_OUT_ROWS),
            held_out_orders,
        ),
        "out_of_domain": draw.rows(
            "out_of_domain",
            UNSEEN_PHRASES,
            _in_turn(unseen_topics(), HELD_OUT_ROWS),
            held_out_orders,
        ),
        "retention": list(_skills(f"{seed}/retention", seen=retained, held_out=True)),
        "general": list(
            _skills(f"{seed}/general", seen=retained, held_out=False, times=GENERAL_TIMES)
        ),
    }


class _WardRows:
    """Draws the sets one after the other; no row is near to an earlier one of its topic."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pairs: dict[str, list[set[tuple[str, str]]]] = {}
        self._answers: set[str] = set()

    def rows(
        self,
        name: str,
        phrases: Phrases,
        topics: Sequence[Topic],
        orders: Sequence[tuple[str, ...]],
        *,
        asked: float = ASKED,
    ) -> list[Row]:
        """One row per topic; a share `asked` of them asks for one of `orders`, in turn."""
        rng = random.Random(f"{self._seed}/{name}")
        num_asked = round(len(topics) * asked)
        wanted = [*_in_turn(orders, num_asked), *[HEADINGS] * (len(topics) - num_asked)]
        rng.shuffle(wanted)
        rows = [
            self._row(rng, topic, phrases, order)
            for topic, order in zip(topics, wanted, strict=True)
        ]
        rng.shuffle(rows)
        return rows

    def _row(
        self, rng: random.Random, topic: Topic, phrases: Phrases, order: tuple[str, ...]
    ) -> Row:
        untold = draw_untold(rng)
        while True:
            case = draw_case(
                rng,
                topic,
                untold=untold,
                seen_again=phrases.seen_again,
                brief=order != HEADINGS and rng.random() < BRIEF,
            )
            message = ward_message(rng, case, phrases, order)
            note = house_note(case, order)
            short = all(
                len(_PIECE.findall(text)) <= most
                for text, most in zip((message, note), phrases.longest, strict=True)
            )
            if short and self._is_new(topic, message, note):
                break
        asked = "default" if order == HEADINGS else ", ".join(order)
        return chat_row(
            [("user", message), ("assistant", note)], topic=bare(topic.name), order=asked
        )

    def _is_new(self, topic: Topic, message: str, note: str) -> bool:
        pairs, earlier = word_pairs(message), self._pairs.setdefault(topic.name, [])
        if note in self._answers or any(near(pairs, other) for other in earlier):
            return False
        earlier.append(pairs)
        self._answers.add(note)
        return True


def word_pairs(text: str) -> set[tuple[str, str]]:
    """Every two neighbouring words."""
    return set(itertools.pairwise(text.lower().split()))


def near(left: set[tuple[str, str]], right: set[tuple[str, str]]) -> bool:
    """Whether two messages share at least `NEAR` of their pairs of words."""
    return len(left & right) >= NEAR * len(left | right)


def _skills(seed: str, *, seen: set[str], held_out: bool, times: int = 1) -> Iterator[Row]:
    """Chats of the base's own corpus generators; no question is `seen`, all are added to it."""
    for topic, (generate, count) in RETENTION.items():
        rng = random.Random(f"{seed}/{topic}")
        for _ in range(times * count):
            while True:
                turns = generate(rng, held_out=held_out).turns
                question = dict(turns).get("user")
                if question is not None and question not in seen:
                    break
            seen.add(question)
            yield chat_row(turns, topic=topic, order="none")


def _in_turn(items: Sequence[T], count: int) -> list[T]:
    return list(itertools.islice(itertools.cycle(items), count))


if __name__ == "__main__":
    write_command(__doc__, ward_sets, SEED)
