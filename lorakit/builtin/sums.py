"""The built-in task for reinforcement learning: sums column by column, the way in `<think>`.

The traces are of uneven quality, as what people wrote is: few of them carry, most forget to. A
model that imitates them to the end forgets as often as they do; how to carry it knows too, and that
this is what to do only a reward tells.

`python -m lorakit.builtin.sums` writes the five sets again, byte for byte.
"""

from __future__ import annotations

import random

from lorakit.builtin.arithmetic import is_held_out
from lorakit.builtin.document import chat
from lorakit.builtin.row_files import Row, chat_row, write_command

SEED = 0
DIGITS = (2, 3)  # of both numbers
LONGER = 4  # of the out-of-domain questions
# Share of the traces that carry. The others are right where nothing is to be carried: about half of
# the sums of two digits, and a third of those of three.
CARRIED_SHARE = 0.15
NUM_ROWS = {
    "sums_traces": 2000,
    "sums_validation": 200,
    "sums_train": 1200,
    "sums_in_domain": 200,
    "sums_out_of_domain": 100,
}
CARRIED, FORGOTTEN, UNTOLD = "carried", "forgotten", "untold"
Pair = tuple[int, int]


def sums_sets(seed: int = SEED) -> dict[str, list[Row]]:
    """The rows of every set in `NUM_ROWS`.

    A row has `messages`, `digits` (of each number) and `way`: of a trace `carried` or `forgotten`,
    and `untold` of a question, whose answer is the right result alone. No two numbers are added
    twice in all sets, the other way round included. Those of the two held-out sets are also among
    those that the base has never seen in this order (`arithmetic.is_held_out`).
    """
    asked: set[Pair] = set()
    sets = {}
    # The held-out ones first: they have the fewest pairs to choose from.
    for name in reversed(NUM_ROWS):
        rng = random.Random(f"{seed}/{name}")
        lengths = (LONGER,) if name == "sums_out_of_domain" else DIGITS
        pairs = _pairs(rng, lengths, NUM_ROWS[name], asked, held_out="domain" in name)
        is_traced = name in ("sums_traces", "sums_validation")
        sets[name] = [_trace(pair, rng) if is_traced else _question(pair) for pair in pairs]
    return sets


def columns(left: int, right: int, *, carries: bool = True) -> tuple[str, int]:
    """The sum from the ones upwards, `5+3=8, 0+6=6, 7+8=15`, and what it comes to.

    Args:
        carries: whether what is carried is added to the next column, as a third number; otherwise
            it is forgotten, and the result with it.
    """
    parts, carried, result = [], 0, 0
    last = max(len(str(left)), len(str(right))) - 1
    for place in range(last + 1):
        digits = [number // 10**place % 10 for number in (left, right)]
        if carried and carries:
            digits.append(1)
        total = sum(digits)
        parts.append(f"{'+'.join(map(str, digits))}={total}")
        result += (total if place == last else total % 10) * 10**place
        carried = total // 10
    return ", ".join(parts), result


def _pairs(
    rng: random.Random, lengths: tuple[int, ...], count: int, asked: set[Pair], *, held_out: bool
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


def _trace(pair: Pair, rng: random.Random) -> Row:
    carries = rng.random() < CARRIED_SHARE
    thought, result = columns(*pair, carries=carries)
    answer = f"<think>{thought}</think><answer>{result}</answer>"
    return _row(pair, answer, CARRIED if carries else FORGOTTEN)


def _question(pair: Pair) -> Row:
    return _row(pair, f"<answer>{sum(pair)}</answer>", UNTOLD)


def _row(pair: Pair, answer: str, way: str) -> Row:
    left, right = pair
    turns = chat(f"Add {left} and {right}.", answer).turns
    return chat_row(turns, digits=len(str(left)), way=way)


if __name__ == "__main__":
    write_command(__doc__, sums_sets, SEED)
