"""Documents that can be asked: which chunks of them speak of a question."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.errors import DataError, InputError
from lorakit.retrieve.chunks import (
    CHUNK_CHARACTERS,
    OVERLAP_CHARACTERS,
    Chunk,
    chunks_of,
)
from lorakit.retrieve.documents import read_documents
from lorakit.retrieve.index import Bm25

TOP_K = 3


@dataclass(frozen=True)
class Found:
    """A chunk that was found.

    Attributes:
        number: 1-based rank among what was found: what it is cited by.
        chunk: the text, and where it stands.
        score: BM25's; comparable within one question only.
    """

    number: int
    chunk: Chunk
    score: float

    def to_json(self) -> dict[str, Any]:
        """The text, where it stands, and how well it fits."""
        where = {"number": self.number, "source": self.chunk.source, "score": self.score}
        return where | {"text": self.chunk.text}


class Retriever:
    """Searches chunks by BM25.

    Args:
        chunks: one at least; see `chunks_of`, or `Retriever.from_path` for files.

    Attributes:
        chunks: as given.
        seconds: that reading and indexing took.

    Raises:
        DataError: no chunks.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            raise DataError("there are no chunks to search. Give documents that have text.")
        started = time.perf_counter()
        self.chunks = list(chunks)
        self._index = Bm25([chunk.text for chunk in self.chunks])
        self.seconds = time.perf_counter() - started

    @classmethod
    def from_path(
        cls,
        source: str | Path,
        *,
        chunk_characters: int = CHUNK_CHARACTERS,
        overlap_characters: int = OVERLAP_CHARACTERS,
        text_column: str = "text",
    ) -> Retriever:
        """Read, cut and index the documents in a file or a folder.

        Args:
            source, text_column: see `read_documents`.
            chunk_characters, overlap_characters: see `chunks_of`.

        Raises:
            InputError: documents that cannot be read, or sizes that cannot work.
        """
        started = time.perf_counter()
        documents = read_documents(source, text_column=text_column)
        chunks = chunks_of(
            documents, chunk_characters=chunk_characters, overlap_characters=overlap_characters
        )
        retriever = cls(chunks)
        retriever.seconds = time.perf_counter() - started
        return retriever

    def search(self, questions: Sequence[str], k: int = TOP_K) -> list[list[Found]]:
        """For each question at most `k` chunks, the best first; none where no word of it occurs.

        Raises:
            InputError: one string instead of a list of them, or a `k` below 1.
        """
        if isinstance(questions, str):
            raise InputError(
                "search was given a string; possible: a list of questions. Put it in a list."
            )
        if k < 1:
            raise InputError(f"k is {k}; possible: 1 chunk or more. Change it.")
        return [
            [
                Found(number, self.chunks[index], score)
                for number, (index, score) in enumerate(self._index.search(question, k), start=1)
            ]
            for question in questions
        ]
