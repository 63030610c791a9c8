"""Which micro-batches of a policy gradient may take the most memory, found from lengths alone.

How long completions are is known when they are there. What is looked for here has as many tokens as
a micro-batch may have: behind the longest prompts, completions that are as long as they may be, the
last of them cut off where the micro-batch is full. Where the members of a group share their prompt,
attention sees it once for each of them, so that more and shorter completions can take more: that is
looked for too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SIZES_LOOKED_AT = 256  # of micro-batches: recompute changes at few of them
FIRSTS_LOOKED_AT = 32  # questions that a row of many completions may begin with

# Of each completion the index of its question's example, and its tokens; those of a question are
# neighbours.
Answered = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PolicyShape:
    """What the micro-batches of a run depend on.

    Attributes:
        prompt_lengths: int64 (number of examples,), tokens of each question.
        max_completion_length: tokens of a completion, at most.
        batch_size: completions of an optimizer step.
        num_generations: completions of a question.
        num_prompts: questions of a generation.
        token_budget: of a micro-batch; a longer sequence has one to itself.
        packed: whether sequences share a row, or are padded.
        shared: whether the prompt of a group is computed once in a row.
    """

    prompt_lengths: np.ndarray
    max_completion_length: int
    batch_size: int
    num_generations: int
    num_prompts: int
    token_budget: int
    packed: bool
    shared: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.prompt_lengths.max()) + self.max_completion_length

    @property
    def most_tokens(self) -> int:
        """Of a micro-batch, padding included."""
        return max(self.token_budget, self.longest)

    def seen_tokens(self, answered: Answered) -> int:
        """What attention sees of a row: each completion behind its prompt."""
        return sum(int(self.prompt_lengths[index]) + tokens for index, tokens in answered)

    def row_tokens(self, answered: Answered) -> int:
        """Of a row, a shared prompt counted once."""
        if not self.shared:
            return self.seen_tokens(answered)
        prompts = sum(int(self.prompt_lengths[index]) for index in dict(answered))
        return prompts + sum(tokens for _, tokens in answered)

    @cached_property
    def longest_first(self) -> list[int]:
        """See the function."""
        return longest_first(self.prompt_lengths, self.num_prompts)


def longest_first(prompt_lengths: np.ndarray, num_prompts: int) -> list[int]:
    """All questions; of a set with fewer than a generation asks, some again.

    Args:
        prompt_lengths: int64 (number of examples,), tokens of each question.
        num_prompts: questions of a generation.
    """
    order = np.argsort(-prompt_lengths, kind="stable")
    found: list[int] = np.resize(order, max(len(order), num_prompts)).tolist()
    return found


def worst_answered(shape: PolicyShape, kept: Callable[[int], int]) -> list[Answered]:
    """Micro-batches one of which takes at least as much memory as any that the run may have.

    Args:
        kept: tokens of a micro-batch -> bytes that its layers keep; one with more tokens may keep
            less, because more of it is recomputed.
    """
    most = shape.most_tokens
    sizes = range(most, 0, -max(1, most // SIZES_LOOKED_AT))
    found: dict[Answered, None] = {}
    for room in (most, max(sizes, key=lambda size: (kept(size), size))):
        rows = _packed(shape, room) if shape.packed else [_padded(shape, room)]
        found |= dict.fromkeys(rows)
    return [one for one in found if one]


def _packed(shape: PolicyShape, room: int) -> list[Answered]:
    """The row of the longest sequences, that with the most tokens, and that of which attention sees
    the most."""
    longest, _ = _filled(shape, room, shape.max_completion_length, shape.num_generations)
    # Of one question as many as may be, or as many questions as a step may see.
    many = [
        _shared_out(shape, min(room, shape.token_budget), members, first)
        for members in (shape.num_generations, 1)
        for first in range(min(FIRSTS_LOOKED_AT, len(shape.longest_first)))
    ]
    return [tuple(longest), max(many, key=shape.row_tokens), max(many, key=shape.seen_tokens)]


def _filled(
    shape: PolicyShape, room: int, longest: int, members: int, first: int = 0
) -> tuple[list[tuple[int, int]], int]:
    """The longest prompts, until a row is full, and the tokens that there is still room for.

    Args:
        longest: tokens of a completion, at most.
        members: of a group, at most.
        first: the number of the prompt to begin with.
    """
    found: list[tuple[int, int]] = []
    num_questions = 0
    for index in shape.longest_first[first:]:
        prompt = int(shape.prompt_lengths[index])
        if num_questions == shape.num_prompts or len(found) == shape.batch_size:
            break
        if prompt >= room:  # a shorter one may fit
            continue
        num_questions += 1
        for member in range(min(members, shape.batch_size - len(found))):
            costs = prompt if member == 0 or not shape.shared else 0
            if costs >= room:
                break
            completion = min(longest, room - costs)
            found.append((index, completion))
            room -= costs + completion
    return found, room


def _shared_out(shape: PolicyShape, room: int, members: int, first: int) -> Answered:
    """As many completions as a row can have; its other tokens are shared out among them."""
    shortest, left = _filled(shape, room, 1, members, first)
    counts = Counter(index for index, _ in shortest)
    for index, count in counts.items() if shape.shared else ():
        added = min(shape.num_generations - count, shape.batch_size - counts.total(), left)
        counts[index] += max(0, added)
        left -= max(0, added)
    if not counts:
        return ()
    each, more = divmod(left, counts.total())
    longest = shape.max_completion_length
    return tuple(
        (index, min(longest, 1 + each + (place < more)))
        for place, index in enumerate(counts.elements())
    )


def _padded(shape: PolicyShape, room: int) -> Answered:
    """Rows of one length that come nearest to what a micro-batch may have."""
    longest, budget = shape.max_completion_length, min(room, shape.token_budget)
    order = np.argsort(-shape.prompt_lengths, kind="stable")
    prompts = shape.prompt_lengths[order]

    def asked(width: int) -> np.ndarray:
        """int64, in `prompts`: the questions that fit, once for each completion of a step."""
        first = int(np.searchsorted(-prompts, -width, side="right"))
        fitting = np.arange(first, len(prompts))
        questions = np.resize(fitting, shape.num_prompts) if len(fitting) else fitting
        rows = min(shape.batch_size, max(1, budget // width))
        return questions.repeat(shape.num_generations)[:rows]

    def tokens(width: int) -> int:
        places = asked(width)
        reached = min(width, int(prompts[places[0]]) + longest) if len(places) else 0
        return len(places) * reached

    widths = range(min(shape.longest, max(room, int(prompts[-1]) + 1)), int(prompts[-1]), -1)
    width = max(widths, key=tokens)  # of equal ones the widest
    return tuple(
        (int(order[place]), min(longest, width - int(prompts[place]))) for place in asked(width)
    )
