"""Documents from a file or a folder: their text, and which line of the file each line of it is."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lorakit.data.fields import optional_text
from lorakit.data.json_lines import decode
from lorakit.data.sources import read_rows
from lorakit.errors import DataError
from lorakit.retrieve.html_text import html_text

TEXT = (".txt", ".md", ".markdown", ".rst")
HTML = (".html", ".htm")
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
SUFFIXES = (*TEXT, *HTML, *ROWS)
# Documents that people have and that hold no plain text: leaving them out silently would be a
# knowledge base with holes.
NO_TEXT = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".ppt", ".pptx", ".xls", ".xlsx", ".epub")
MAX_FILE_BYTES = 256 << 20
_BOM = b"\xef\xbb\xbf"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        path: of its file, as given.
        text: without carriage returns.
        lines: for each line of `text`, the 1-based line of the file (or number of the row) that it
            stands in.
    """

    path: str
    text: str
    lines: tuple[int, ...]


def read_documents(source: str | Path, *, text_column: str = "text") -> list[Document]:
    """Read every document in a file, or in a folder and the folders in it, in sorted order.

    Args:
        source: .txt, .md and .rst as they are; of .html what a reader sees; of .jsonl, .json, .csv
            and .parquet one document a row. Files of other kinds in a folder are passed over with a
            note, and so are names that begin with a dot.
        text_column: which column of a row is its text.

    Raises:
        DataError: nothing there, nothing in it, a file that is no text or not UTF-8, a row without
            that column, or a document that has to be turned into text first (PDF and the like).
    """
    if not str(source).strip():
        raise DataError("the path of the documents is blank. Name a file or a folder.")
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"documents {str(source)!r}: no such file or folder. Check the path.")
    files = _files_in(path) if path.is_dir() else [path]
    _refuse_unreadable(files)
    by_file = {file: list(_read(file, text_column)) for file in files}
    documents = [found for of_file in by_file.values() for found in of_file]
    if not documents:
        raise DataError(
            f"documents {str(source)!r}: no text in {len(files)} file(s). Name a file or a folder "
            f"that has some, of these kinds: {', '.join(SUFFIXES)}."
        )
    empty = [str(file) for file, found in by_file.items() if not found]
    if empty:
        named = ", ".join(empty[:3]) + (" ..." if len(empty) > 3 else "")
        log.warning("documents %s: no text in %d file(s): %s", source, len(empty), named)
    return documents


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder that are, or should be, documents."""
    found, passed_over = [], Counter[str]()
    for place, folders, names in os.walk(folder, onerror=_cannot_list):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(place, name)
            if name.startswith(".") or not file.is_file():
                continue
            if file.suffix.lower() in (*SUFFIXES, *NO_TEXT):
                found.append(file)
            else:
                passed_over[file.suffix or "no suffix"] += 1
    if passed_over:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(passed_over.items()))
        log.warning("documents %s: files that are not read: %s", folder, kinds)
    if not found:
        raise DataError(
            f"documents {str(folder)!r}: no documents in this folder; read are "
            f"{', '.join(SUFFIXES)}. Name the folder that holds them."
        )
    return found


def _cannot_list(error: OSError) -> None:
    raise DataError(
        f"documents {error.filename!r}: cannot be read: {error.strerror}. Check the permissions."
    ) from error


def _refuse_unreadable(files: list[Path]) -> None:
    unread = [file for file in files if file.suffix.lower() not in SUFFIXES]
    if unread:
        named = ", ".join(map(str, unread[:3])) + (" ..." if len(unread) > 3 else "")
        raise DataError(
            f"documents: {len(unread)} file(s) are no plain text: {named}; read are "
            f"{', '.join(SUFFIXES)}. Convert them (`pdftotext`, `pandoc`), or move them away."
        )


def _read(file: Path, text_column: str) -> Iterator[Document]:
    suffix = file.suffix.lower()
    try:
        if suffix in ROWS:
            yield from _of_rows(file, text_column)
        else:
            read: Callable[[str], tuple[str, tuple[int, ...]]]
            read = html_text if suffix in HTML else _as_it_is
            text, lines = read(_text_of(file))
            if text.strip():
                yield Document(str(file), text, lines)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}.") from error


def _of_rows(file: Path, text_column: str) -> Iterator[Document]:
    for row in read_rows(file):
        if text_column not in row.values:
            raise DataError(
                f"{row.location}: no column {text_column!r}; the row has {sorted(row.values)}. "
                "Name the column that holds the text (compare.text_column)."
            )
        text = optional_text(row.values, text_column, row.location).replace("\r\n", "\n")
        if text.strip():
            number = int(row.location.rpartition(":")[2])
            yield Document(str(file), text, (number,) * (text.count("\n") + 1))


def _text_of(file: Path) -> str:
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise DataError(
            f"{file}: {size} bytes; a document may have {MAX_FILE_BYTES}. Cut it into several."
        )
    content = file.read_bytes().removeprefix(_BOM)
    if b"\0" in content:
        raise DataError(
            f"{file}: a NUL byte at byte {content.index(0) + 1}: this is no text, or text in "
            "UTF-16. Convert it to UTF-8, or move it away."
        )
    return decode(content, file).replace("\r\n", "\n").replace("\r", "\n")


def _as_it_is(text: str) -> tuple[str, tuple[int, ...]]:
    return text, tuple(range(1, text.count("\n") + 2))
