"""Rows that say nearly the same, within train and between train and held-out sets.

Candidates come from MinHash (datasketch) over word bigrams, without those that many rows share: a
long instruction that opens every row must not make all of them alike. A candidate counts only if
what differs is a trifle: case, punctuation, order, stop words, a typing error, a word more. One
topic, number, negation or sign of a sum in place of another makes another row, however long the
rest.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lorakit.lint.row_texts import RowText, Sample
from lorakit.lint.trifles import calculate_otherwise, differ_in_trifles, jaccard
from lorakit.lint.words import words

if TYPE_CHECKING:
    from datasketch import MinHash

NUM_PERM = 64
# Of the MinHash alone: low, because short rows lose a third of their bigrams by one typing error.
LSH_THRESHOLD = 0.5
# Bigrams that more rows than these have are a template's.
COMMON_ROWS, COMMON_SHARE = 50, 0.01
TABLE_MASK = np.uint32((1 << 22) - 1)
MAX_CANDIDATES = 30
MAX_WORDS = 2_000  # of a text; what follows is not compared
LONG_ANSWER = 8  # words from which an answer by itself tells rows apart
UNMISTAKABLE_ANSWER = 20
SHARED_ANSWER = 5  # rows from which an answer is a formula, under questions on different topics
MIN_PROMPT_WORDS = 5


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
    repeats = Repeats(within=index.repeats)
    for name, sample in held_out.items():
        repeats.across[name], repeats.same_prompt[name] = [], []
        for row in sample:
            signature = _signature(row)
            like, asks = index.like(row, signature), index.asking(signature)
            if like is not None:
                repeats.across[name].append(Pair(row, like))
            elif asks is not None:
                repeats.same_prompt[name].append(Pair(row, asks))
    return repeats


@dataclass(frozen=True)
class _Signature:
    """What is kept of a row: its hashed bigrams, sorted, and keys of its prompt, answer and whole.

    The prompt's key is None where it is too short to tell; in the whole's, the words of the prompt
    may stand in any order, those of the answer may not: a list in another order is another answer.
    """

    bigrams: np.ndarray
    prompt: int | None
    answer: int
    whole: int


def _signature(row: RowText) -> _Signature:
    prompt, answer = _words(row.prompt), _words(row.answer)
    return _Signature(
        bigrams=_bigrams([*prompt, "\0", *answer]),
        prompt=hash(tuple(prompt)) if len(prompt) >= MIN_PROMPT_WORDS else None,
        answer=hash(tuple(answer)),
        whole=hash((tuple(sorted(prompt)), tuple(answer))),
    )


class _Index:
    """The training rows by MinHash; of rows that are alike, the first alone.

    Attributes:
        repeats: the rows that an earlier one is like, without those that are equal.
    """

    def __init__(self, rows: Sequence[RowText]) -> None:
        from datasketch import MinHash, MinHashLSH

        self._rows = rows
        self._empty = MinHash(NUM_PERM, seed=1, hashfunc=int)
        self._lsh = MinHashLSH(threshold=LSH_THRESHOLD, num_perm=NUM_PERM)
        self._wholes: dict[int, int] = {}
        self._prompts: dict[int, int] = {}
        signatures = [_signature(row) for row in rows]
        self._answers = Counter(signature.answer for signature in signatures)
        self._is_common = _common([signature.bigrams for signature in signatures])
        self.repeats = list(self._fill(signatures))

    def like(self, row: RowText, signature: _Signature) -> RowText | None:
        """The training row that says nearly the same as a row of another set."""
        like = self._find(row, signature, self._min_hash(signature))
        return None if like is None else self._rows[like]

    def asking(self, signature: _Signature) -> RowText | None:
        """The first training row with the same prompt."""
        found = None if signature.prompt is None else self._prompts.get(signature.prompt)
        return None if found is None else self._rows[found]

    def _fill(self, signatures: Sequence[_Signature]) -> Iterator[Pair]:
        for i, (row, signature) in enumerate(zip(self._rows, signatures, strict=True)):
            min_hash = self._min_hash(signature)
            like = self._find(row, signature, min_hash)
            if signature.prompt is not None:
                self._prompts.setdefault(signature.prompt, i)
            if like is None:
                self._wholes[signature.whole] = i
                if min_hash is not None:
                    self._lsh.insert(i, min_hash)
            elif not _is_equal(row, self._rows[like]):
                yield Pair(row, self._rows[like])

    def _min_hash(self, signature: _Signature) -> MinHash | None:
        """Of the bigrams that are no template's; None if there are no others."""
        distinctive = signature.bigrams[~self._is_common[signature.bigrams & TABLE_MASK]]
        if not len(distinctive):
            return None
        made = self._empty.copy()
        made.update_batch(distinctive.tolist())
        return made

    def _find(self, row: RowText, signature: _Signature, min_hash: MinHash | None) -> int | None:
        same = self._wholes.get(signature.whole)
        if same is not None or min_hash is None:
            return same
        found = sorted(self._lsh.query(min_hash))[:MAX_CANDIDATES]
        near = (i for i in found if self._is_near(row, signature, self._rows[i]))
        return next((i for i in near if not _calculate_otherwise(row, self._rows[i])), None)

    def _is_near(self, one: RowText, signature: _Signature, other: RowText) -> bool:
        answer, answer_of_other = _words(one.answer), _words(other.answer)
        shorter = min(len(answer), len(answer_of_other))
        if shorter < LONG_ANSWER and answer != answer_of_other:
            return False
        if not differ_in_trifles(answer, answer_of_other, substituted=0.1):
            return False
        if one.is_plain or other.is_plain:
            return one.is_plain == other.is_plain
        prompt, prompt_of_other = _words(one.prompt), _words(other.prompt)
        if differ_in_trifles(prompt, prompt_of_other):
            return True
        # A paraphrase: the same long answer, that only a few rows give, to questions much alike.
        return (
            shorter >= UNMISTAKABLE_ANSWER
            and self._answers[signature.answer] <= SHARED_ANSWER
            and jaccard(prompt, prompt_of_other) >= 0.6
            and differ_in_trifles(prompt, prompt_of_other, substituted=0.3)
        )


def _is_equal(one: RowText, other: RowText) -> bool:
    return one.turns == other.turns and one.thinking == other.thinking


def _calculate_otherwise(one: RowText, other: RowText) -> bool:
    return calculate_otherwise(one.text[: 12 * MAX_WORDS], other.text[: 12 * MAX_WORDS])


def _words(text: str) -> list[str]:
    return words(text[: 12 * MAX_WORDS])[:MAX_WORDS]


def _bigrams(listed: Sequence[str]) -> np.ndarray:
    """Hashes of the word pairs, uint32 (distinct,), sorted."""
    hashes = np.fromiter(
        (zlib.crc32(word.encode("utf-8", "replace")) for word in listed), np.uint64, len(listed)
    )
    pairs = (hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) + hashes[1:]) >> np.uint64(32)
    pairs = np.sort(pairs.astype(np.uint32))
    return pairs[np.r_[True, pairs[1:] != pairs[:-1]]] if len(pairs) else pairs


def _common(bigrams: Sequence[np.ndarray]) -> np.ndarray:
    """Which hashes, cut to the table's size, are of a template: those of many rows, bool."""
    counts = np.zeros(TABLE_MASK + 1, dtype=np.int32)
    for one in bigrams:
        counts[one & TABLE_MASK] += 1
    return counts > max(COMMON_ROWS, COMMON_SHARE * len(bigrams))


def groups_by_prompt(rows: Sequence[RowText]) -> Iterator[list[RowText]]:
    """Rows with the same prompt, case, white space and last signs aside; those with a prompt."""
    groups: dict[int, list[RowText]] = defaultdict(list)
    for row in rows:
        if row.prompt.strip() and row.answer.strip():
            groups[hash(" ".join(row.prompt.casefold().split()).rstrip(" ?.!:"))].append(row)
    return (group for group in groups.values() if len(group) > 1)
