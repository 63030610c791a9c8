"""The longest run of words that a text shares with any text of a corpus, however large.

Q words of all answers, C words of the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_RUN = 8


@dataclass(frozen=True)
class SharedRun:
    """The longest run of an answer that a training answer has too.

    Attributes:
        length: in words; 0: none of MIN_RUN words.
        total: words of the answer.
        start: of the run in the answer.
        source: which training answer has it; -1: none.
    """

    length: int
    total: int
    start: int = 0
    source: int = -1


def longest_runs(
    answers: Sequence[Sequence[str]], corpus: Sequence[Sequence[str]]
) -> list[SharedRun]:
    """The longest run of words that each answer shares with any text of the corpus.

    Windows of MIN_RUN words are hashed on both sides; those that occur on the other side grow word
    by word, all at once, until none is left. Two different windows of equal 64-bit hash are taken
    for the same: of 10^8 pairs, one in 10^11 such corpora has any.

    Args:
        answers: as words.
        corpus: as words.
    """
    known = {word: i for i, word in enumerate({w: None for answer in answers for w in answer}, 1)}
    codes = np.random.Generator(np.random.Philox(0)).integers(
        1, 2**63, len(known) + 1, dtype=np.uint64
    )
    asked, searched = (_Windows.of(texts, known, codes) for texts in (answers, corpus))
    length = MIN_RUN
    found = [SharedRun(0, len(answer)) for answer in answers]
    while True:
        searched = searched.only(np.isin(searched.hashes, asked.hashes))
        asked = asked.only(np.isin(asked.hashes, searched.hashes))
        if not len(asked.starts):
            return found
        order = np.argsort(searched.hashes, kind="stable")
        owners, first = np.unique(asked.owners, return_index=True)
        at = order[np.searchsorted(searched.hashes[order], asked.hashes[first])]
        for owner, place, other in zip(owners.tolist(), first.tolist(), at.tolist(), strict=True):
            start = int(asked.starts[place] - asked.begins[owner])
            source = int(searched.owners[other])
            found[owner] = SharedRun(length, len(answers[owner]), start, source)
        asked, searched = asked.longer(length), searched.longer(length)
        length += 1


@dataclass(frozen=True)
class _Windows:
    """Windows of equal length into texts laid end to end.

    Attributes:
        codes: uint64, one per word; begins, ends: int64, of each text.
        starts: int64, where each window begins; hashes: uint64; owners: int64, its text.
    """

    codes: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    hashes: np.ndarray
    owners: np.ndarray

    @staticmethod
    def of(texts: Sequence[Sequence[str]], known: dict[str, int], codes: np.ndarray) -> _Windows:
        """Every window of MIN_RUN words."""
        lengths = np.array([len(text) for text in texts], np.int64)
        ends = np.cumsum(lengths)
        words_C = codes[np.array([known.get(w, 0) for text in texts for w in text], np.int64)]
        owners = np.repeat(np.arange(len(texts)), lengths)
        starts = np.arange(len(words_C))
        starts = starts[starts + MIN_RUN <= ends[owners]]
        hashes = np.zeros(len(starts), np.uint64)
        for offset in range(MIN_RUN):
            hashes = _extended(hashes, words_C[starts + offset])
        return _Windows(words_C, ends - lengths, ends, starts, hashes, owners[starts])

    def only(self, kept: np.ndarray) -> _Windows:
        """Those windows that are `kept`, bool."""
        return _Windows(
            self.codes,
            self.begins,
            self.ends,
            self.starts[kept],
            self.hashes[kept],
            self.owners[kept],
        )

    def longer(self, length: int) -> _Windows:
        """Each window of `length` words with the next word, where its text goes on."""
        fits = self.only(self.starts + length < self.ends[self.owners])
        hashes = _extended(fits.hashes, self.codes[fits.starts + length])
        return _Windows(self.codes, self.begins, self.ends, fits.starts, hashes, fits.owners)


def _extended(hashes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Hashes modulo 2^64 with one more word; the shifts keep low bits from cycling."""
    mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15) + codes
    return mixed ^ (mixed >> np.uint64(32))
