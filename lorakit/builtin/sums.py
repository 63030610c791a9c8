"""The built-in task for reinforcement learning: sums of two numbers, the way in `<think>`.

Every trace ends in the right sum. Some get there column by column, with the digit that is carried,
which a small model can learn; others write the sum at once, which it learns for short numbers at
best. Long sums are written at once more often, as people do who are in a hurry. So a model that
learned from the traces knows a good way and a bad one and takes either; which is which only a
reward tells.

`python -m lorakit.builtin.sums` writes the five sets again, byte for byte.
"""

from __future__ import annotations

import random

from lorakit.builtin.arithmetic import is_held_out
from lorakit.builtin.document import chat
from lorakit.builtin.row_files import Row, chat_row, write_command

SEED = 0
# Digits of both numbers -> share of the traces that go column by column.
COLUMNS_SHARE = {2: 0.7, 3: 0.2}
LONGER = 4  # digits of the out-of-domain questions
NUM_ROWS = {
    "sums_traces": 3000,
    "sums_validation": 200,
    "sums_train": 1200,
    "sums_in_domain": 200,
    "sums_out_of_domain": 100,
}
COLUMNS, AT_ONCE, UNTOLD = "columns", "at once", "untold"
Pair = tuple[int, int]


def sums_sets(seed: int = SEED) -> dict[str, list[Row]]:
    """The rows of every set in `NUM_ROWS`.

    A row has `messages` (a question, and what is right), `digits` (of each number) and `way`:
    `columns` or `at once` of the traces, and `untold` of the questions, whose answer is the result
    alone. No two numbers are added twice in all sets, the other way round included. Those of the
    two held-out sets are also among those that the base has never seen in this order
    (`arithmetic.is_held_out`).
    """
    asked: set[Pair] = set()
    sets = {}
    # The held-out ones first: they have the fewest pairs to choose from.
    for name in reversed(NUM_ROWS):
        rng = random.Random(f"{seed}/{name}")
        lengths = [LONGER] if name == "sums_out_of_domain" else list(COLUMNS_SHARE)
        is_traced = name in ("sums_traces", "sums_validation")
        sets[name] = [
            _row(pair, _way(rng, pair) if is_traced else UNTOLD)
            for pair in _pairs(rng, lengths, NUM_ROWS[name], asked, held_out="domain" in name)
        ]
    return sets


def columns(left: int, right: int) -> str:
    """The sum from the ones upwards, with what is carried: `7+5=12, 4+8+1=13, 3+2+1=6`."""
    parts, carried = [], 0
    for place in range(max(len(str(left)), len(str(right)))):
        digits = [number // 10**place % 10 for number in (left, right)]
        if carried:
            digits.append(1)
        parts.append(f"{'+'.join(map(str, digits))}={sum(digits)}")
        carried = sum(digits) // 10
    return ", ".join(parts)


def _pairs(
    rng: random.Random, lengths: list[int], count: int, asked: set[Pair], *, held_out: bool
) -> list[Pair]:
    """`count` pairs, each length in turn, none of them `asked`; all are added to it, both ways."""
    pairs: list[Pair] = []
    while len(pairs) < count:
        digits = lengths[len(pairs) % len(lengths)]
        left, right = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
        if (left, right) not in asked and is_held_out(left, right, "+") == held_out:
            asked |= {(left, right), (right, left)}
            pairs.append((left, right))
    return pairs


def _way(rng: random.Random, pair: Pair) -> str:
    return COLUMNS if rng.random() < COLUMNS_SHARE[len(str(pair[0]))] else AT_ONCE


def _row(pair: Pair, way: str) -> Row:
    left, right = pair
    told = {
        COLUMNS: f"<think>{columns(left, right)}</think>",
        AT_ONCE: f"<think>{left}+{right}={left + right}</think>",
        UNTOLD: "",
    }
    answer = f"{told[way]}<answer>{left + right}</answer>"
    turns = chat(f"Add {left} and {right}.", answer).turns
    return chat_row(turns, digits=len(str(left)), way=way)


if __name__ == "__main__":
    write_command(__doc__, sums_sets, SEED)
