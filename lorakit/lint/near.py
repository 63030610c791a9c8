"""Rows that say nearly the same, within train and between train and held-out sets.

Candidates come from MinHash (datasketch) over word bigrams, without those that many rows share: a
long instruction that opens every row must not make all of them alike. A candidate counts only if
what differs is a trifle: case, punctuation, order, stop words, a typing error, a word more. One
topic, number or negation in place of another makes another row, however long the rest.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lorakit.lint.row_texts import RowText, Sample
from lorakit.lint.words import NUMBER, normalized, words

NUM_PERM = 64
# Of the MinHash alone: low, because short rows lose a third of their bigrams by one typing error.
LSH_THRESHOLD = 0.5
# Bigrams that more rows than these have are a template's.
COMMON_ROWS, COMMON_SHARE = 50, 0.01
MAX_CANDIDATES = 30
MAX_WORDS = 2_000  # of a text; what follows is not compared
LONG_ANSWER = 8  # words from which an answer by itself tells rows apart
UNMISTAKABLE_ANSWER = 20
SHARED_ANSWER = 5  # rows from which an answer is a formula, under questions on different topics
MIN_PROMPT_WORDS = 5
NEGATIONS = frozenset(
    [
        "not",
        "no",
        "never",
        "without",
        "none",
        "nor",
        "cannot",
        "don",
        "doesn",
        "isn",
        "aren",
        "wasn",
        "kein",
        "nicht",
    ]
)
STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "am",
        "do",
        "does",
        "did",
        "of",
        "to",
        "in",
        "on",
        "at",
        "for",
        "and",
        "or",
        "so",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "please",
        "could",
        "can",
        "would",
        "you",
        "me",
        "i",
        "my",
        "your",
        "s",
        "kindly",
        "just",
        "also",
        "there",
        "with",
        "by",
        "as",
    ]
)


@dataclass(frozen=True)
class Pair:
    """A row, and the earlier or training row that says nearly the same."""

    row: RowText
    like: RowText


@dataclass(frozen=True)
class Repeats:
    """Nearly equal rows.

    Attributes:
        within: of train, without those that are equal word for word.
        across: {held-out set: its rows that train nearly has}.
        same_prompt: {held-out set: its rows whose prompt train has, with another answer}.
    """

    within: list[Pair] = field(default_factory=list)
    across: dict[str, list[Pair]] = field(default_factory=dict)
    same_prompt: dict[str, list[Pair]] = field(default_factory=dict)


def repeats_of(train: Sample, held_out: Mapping[str, Sample]) -> Repeats:
    """All pairs of nearly equal rows: each row once, with the first that it is like."""
    index = _Index(train.rows)
    repeats = Repeats(within=list(index.fill()))
    by_prompt = {_prompt_key(row): row for row in reversed(train.rows) if _has_prompt(row)}
    for name, sample in held_out.items():
        repeats.across[name] = [
            Pair(row, like) for row in sample if (like := index.like(row)) is not None
        ]
        known = {pair.row.index for pair in repeats.across[name]}
        repeats.same_prompt[name] = [
            Pair(row, by_prompt[_prompt_key(row)])
            for row in sample
            if row.index not in known and _has_prompt(row) and _prompt_key(row) in by_prompt
        ]
    return repeats


def _has_prompt(row: RowText) -> bool:
    return len(words(row.prompt[:400])) >= MIN_PROMPT_WORDS


def _prompt_key(row: RowText) -> int:
    return hash(normalized(row.prompt))


class _Index:
    """The training rows by MinHash; of rows that are alike, the first alone."""

    def __init__(self, rows: Sequence[RowText]) -> None:
        from datasketch import MinHash, MinHashLSH

        self._rows = rows
        self._empty = MinHash(NUM_PERM, seed=1, hashfunc=int)
        self._lsh = MinHashLSH(threshold=LSH_THRESHOLD, num_perm=NUM_PERM)
        self._bigrams = [_bigrams(row) for row in rows]
        self._common = _common(self._bigrams, len(rows))
        self._same: dict[int, int] = {}
        self._answers = Counter(_key(row.answer) for row in rows)

    def fill(self) -> Iterator[Pair]:
        """Index every row; yields those that an earlier one is like."""
        for i, row in enumerate(self._rows):
            like = self._find(row, self._bigrams[i])
            if like is None:
                self._insert(i, row)
            elif not _is_equal(row, self._rows[like]):
                yield Pair(row, self._rows[like])

    def like(self, row: RowText) -> RowText | None:
        """The training row that says nearly the same as a row of another set."""
        like = self._find(row, _bigrams(row))
        return None if like is None else self._rows[like]

    def _insert(self, i: int, row: RowText) -> None:
        self._same[_sorted_key(row)] = i
        distinctive = self._distinctive(self._bigrams[i])
        if len(distinctive):
            self._lsh.insert(i, self._min_hash(distinctive))

    def _find(self, row: RowText, bigrams: np.ndarray) -> int | None:
        same = self._same.get(_sorted_key(row))
        if same is not None:
            return same
        distinctive = self._distinctive(bigrams)
        if not len(distinctive):
            return None
        found = sorted(self._lsh.query(self._min_hash(distinctive)))[:MAX_CANDIDATES]
        return next((i for i in found if self._is_near(row, self._rows[i])), None)

    def _distinctive(self, bigrams: np.ndarray) -> np.ndarray:
        return bigrams[~np.isin(bigrams, self._common)] if len(self._common) else bigrams

    def _min_hash(self, bigrams: np.ndarray):  # type: ignore[no-untyped-def]
        made = self._empty.copy()
        made.update_batch(bigrams.tolist())
        return made

    def _is_near(self, one: RowText, other: RowText) -> bool:
        answer, answer_of_other = _words(one.answer), _words(other.answer)
        long = min(len(answer), len(answer_of_other)) >= LONG_ANSWER
        if not long and answer != answer_of_other:
            return False
        if long and not _differ_in_trifles(answer, answer_of_other, substituted=0.1):
            return False
        if one.is_plain or other.is_plain:
            return one.is_plain == other.is_plain
        prompt, prompt_of_other = _words(one.prompt), _words(other.prompt)
        if _differ_in_trifles(prompt, prompt_of_other):
            return True
        # A paraphrase: the same long answer, that only a few rows give, to questions much alike.
        return (
            min(len(answer), len(answer_of_other)) >= UNMISTAKABLE_ANSWER
            and self._answers[_key(other.answer)] <= SHARED_ANSWER
            and _jaccard(prompt, prompt_of_other) >= 0.6
            and _differ_in_trifles(prompt, prompt_of_other, substituted=0.3)
        )


def _is_equal(one: RowText, other: RowText) -> bool:
    return one.turns == other.turns and one.thinking == other.thinking


def _words(text: str) -> list[str]:
    return words(text[: 12 * MAX_WORDS])[:MAX_WORDS]


def _key(text: str) -> int:
    return zlib.crc32(normalized(text).encode("utf-8", "replace"))


def _sorted_key(row: RowText) -> int:
    """Equal for rows of the same words in prompt and answer, each in whatever order."""
    # The prompt's order is free, the answer's is not: lists in another order are other answers.
    return hash((tuple(sorted(_words(row.prompt))), tuple(_words(row.answer))))


def _bigrams(row: RowText) -> np.ndarray:
    """Hashes of the row's word pairs, uint32 (distinct,), sorted."""
    listed = [*_words(row.prompt), "\0", *_words(row.answer)]
    hashes = np.fromiter(
        (zlib.crc32(word.encode("utf-8", "replace")) for word in listed), np.uint64, len(listed)
    )
    pairs = (hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) + hashes[1:]) >> np.uint64(16)
    return np.unique(pairs.astype(np.uint32))


def _common(bigrams: Sequence[np.ndarray], num_rows: int) -> np.ndarray:
    """The bigrams that a template writes: those of many rows, sorted."""
    if not bigrams:
        return np.empty(0, np.uint32)
    values, counts = np.unique(np.concatenate(bigrams), return_counts=True)
    return values[counts > max(COMMON_ROWS, COMMON_SHARE * num_rows)]


def _jaccard(one: Sequence[str], other: Sequence[str]) -> float:
    a, b = Counter(one), Counter(other)
    return sum((a & b).values()) / max(1, sum((a | b).values()))


def _differ_in_trifles(
    one: Sequence[str], other: Sequence[str], *, substituted: float = 0.0
) -> bool:
    """Whether two texts say the same.

    Args:
        substituted: share of the words that may stand in place of another.
    """
    a, b = Counter(one), Counter(other)
    only_a, only_b = a - b, b - a
    for word in [*only_a, *only_b]:
        if word in NEGATIONS or NUMBER.fullmatch(word):
            return False
    left_a = [word for word in only_a.elements() if word not in STOP_WORDS]
    left_b = [word for word in only_b.elements() if word not in STOP_WORDS]
    length = min(len(one), len(other))
    if max(len(left_a), len(left_b)) > max(2, 0.3 * length):
        return False
    left_a, left_b = _without_typing_errors(left_a, left_b)
    swapped = min(len(left_a), len(left_b))
    added = max(len(left_a), len(left_b)) - swapped
    return swapped <= substituted * length and added <= 0.1 * length


def _without_typing_errors(one: Sequence[str], other: Sequence[str]) -> tuple[list[str], list[str]]:
    rest, left = list(other), []
    for word in one:
        match = next((w for w in rest if _is_typing_error(word, w)), None)
        if match is None:
            left.append(word)
        else:
            rest.remove(match)
    return left, rest


def _is_typing_error(one: str, other: str) -> bool:
    """Whether one edit, or two letters swapped, makes one word the other; not in short words."""
    if min(len(one), len(other)) < 4 or abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if start is None:
        return True
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def groups_by_prompt(rows: Sequence[RowText]) -> Iterator[list[RowText]]:
    """Rows with the same prompt, case and white space aside; those with a prompt alone."""
    groups: dict[int, list[RowText]] = defaultdict(list)
    for row in rows:
        if row.prompt.strip() and row.answer.strip():
            groups[hash(" ".join(row.prompt.casefold().split()))].append(row)
    return (group for group in groups.values() if len(group) > 1)
