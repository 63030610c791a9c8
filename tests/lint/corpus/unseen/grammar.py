"""Varied text from small grammars: `<name>` is a slot, `(this|that)` a choice."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Grammar = Mapping[str, Sequence[str]]
_SLOT = re.compile(r"<(\w+)>")
_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
# Rows of one world that share more of their three-word sequences than this are not both kept.
_MOST_SHARED = 0.5


@dataclass(frozen=True)
class Exchange:
    """A prompt, its answer, and what the answer rests on."""

    prompt: str
    answer: str
    facts: Mapping[str, str] = field(default_factory=dict)


def expand(
    rng: random.Random, text: str, grammar: Grammar, bound: Mapping[str, str] | None = None
) -> str:
    """`text` with every choice made and every slot filled, from `bound` where it is named there."""
    bound = bound or {}
    while (choice := _CHOICE.search(text)) is not None:
        picked = rng.choice(choice.group(1).split("|"))
        text = text[: choice.start()] + picked + text[choice.end() :]

    def fill(slot: re.Match[str]) -> str:
        name = slot.group(1)
        if name in bound:
            return bound[name]
        return expand(rng, rng.choice(grammar[name]), grammar, bound)

    return _SLOT.sub(fill, text)


def bind(rng: random.Random, grammar: Grammar, *names: str) -> dict[str, str]:
    """One value for each name, to be used wherever the name occurs."""
    bound: dict[str, str] = {}
    for name in names:
        bound[name] = expand(rng, rng.choice(grammar[name]), grammar, bound)
    return bound


def pool(make: Callable[[random.Random], Exchange], count: int, seed: int) -> list[Exchange]:
    """`count` exchanges, no two of them alike, neither as a whole nor by their prompts."""
    rng = random.Random(seed)
    kept: list[Exchange] = []
    wholes, prompts = _Likeness(), _Likeness()
    for _ in range(count * 100):
        if len(kept) == count:
            return kept
        candidate = make(rng)
        prompt = f"{candidate.facts.get('context', '')} {candidate.prompt}"
        whole = f"{prompt} {candidate.answer}"
        if not (wholes.knows(whole) or prompts.knows(prompt)):
            wholes.add(whole)
            prompts.add(prompt)
            kept.append(candidate)
    raise ValueError(f"this world has no {count} rows that differ; it gave {len(kept)}")


class _Likeness:
    """Texts that were kept, found again by the three-word sequences they hold."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)

    def knows(self, text: str) -> bool:
        """Whether a text like this one was added."""
        grams = _grams(text)
        common = Counter(row for gram in grams for row in self._holders.get(gram, ()))
        size = len(grams)
        return any(
            both > _MOST_SHARED * (size + self._sizes[row] - both) for row, both in common.items()
        )

    def add(self, text: str) -> None:
        grams = _grams(text)
        for gram in grams:
            self._holders[gram].append(len(self._sizes))
        self._sizes.append(len(grams))


def _grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}
