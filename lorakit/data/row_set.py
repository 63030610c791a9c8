"""The rows of one set: read and converted once, then held in memory if they are few, or read again.

What is kept of every row is where it stands and a hash of what it means: some 60 bytes. For JSON
lines that index can be kept on disk, so that a second start need not read the rows at all.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from array import array
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.data.code_version import code_version
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.detect import Converter
from lorakit.data.json_lines import row_of_line
from lorakit.data.sources import LINE_SUFFIXES, Line, Row, files_of, row_in_memory
from lorakit.errors import DataError

# Rows that take more memory altogether are read again when they are needed.
KEPT_BYTES = 128 << 20
ROW_BYTES = 1024  # of the objects a row is made of, about
HASH_BYTES = 32
_NOWHERE = -1  # of a row that stands in no line of a file
_PLACES = ("prefix", "number", "path", "offset", "size")


class RowSet:
    """The rows of one set, by position.

    Args:
        source: where they come from, as `sources.read_rows` takes it.
        converter: rows to what they mean.
    """

    def __init__(self, source: Any, converter: Converter) -> None:
        self._source, self._converter = source, converter
        self._kept: list[tuple[Row, Conversation | PlainText]] | None = []
        self._kept_bytes = 0
        self._names: list[str] = []  # what locations begin with, and files
        self._numbers: dict[str, int] = {}  # of names
        self._places = {name: array("q") for name in _PLACES}
        self._content = bytearray()
        self._said: bytes | None = None
        self._stamps = stamps_of(source)
        # Rows that come from elsewhere cannot be read again one by one.
        self._in_memory = isinstance(source, Sequence) and not isinstance(source, str)
        self._in_memory |= type(source).__module__.startswith("datasets.")

    def __len__(self) -> int:
        return len(self._places["number"])

    @property
    def _can_read_again(self) -> bool:
        return self._in_memory or _NOWHERE not in self._places["path"]

    def forget(self) -> None:
        """Let go of rows that are held, where they can be read again one by one."""
        if self._can_read_again:
            self._kept = None

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that stay after `forget`, about: where rows stand and their hashes, and
        rows that cannot be read again one by one."""
        places = sum(place.itemsize * len(place) for place in self._places.values())
        kept = 0 if self._kept is None or self._can_read_again else self._kept_bytes
        return places + len(self._content) + len(self._said or b"") + kept

    def add(self, row: Row, meaning: Conversation | PlainText) -> None:
        """Take the next row, and what it means."""
        content = content_of(meaning)
        prefix, _, number = row.location.rpartition(":")
        line, places = row.line, self._places
        places["prefix"].append(self._name(prefix))
        places["number"].append(int(number))
        places["path"].append(_NOWHERE if line is None else self._name(str(line.path)))
        places["offset"].append(0 if line is None else line.offset)
        places["size"].append(0 if line is None else line.size)
        self._content += hashlib.sha256(content).digest()
        if self._kept is not None:
            self._kept.append((row, meaning))
            self._kept_bytes += len(content) + ROW_BYTES
            if self._kept_bytes > KEPT_BYTES and (line is not None or self._in_memory):
                self._kept = None

    def row(self, index: int) -> Row:
        """The row as read; a DataError if its file has changed since."""
        return self._both(index)[0]

    def conversation(self, index: int) -> Conversation | PlainText:
        """What the row means."""
        return self._both(index)[1]

    def location(self, index: int) -> str:
        """Where the row stands."""
        return f"{self._names[self._places['prefix'][index]]}:{self._places['number'][index]}"

    def content_hash(self, index: int) -> bytes:
        """SHA-256 over what the row means."""
        return bytes(self._content[index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def said_hash(self, index: int) -> bytes:
        """SHA-256 over what user and assistant say; of all rows when one is asked for."""
        if self._said is None:
            hashes = (hashlib.sha256(said_in(self.conversation(i))) for i in range(len(self)))
            self._said = b"".join(one.digest() for one in hashes)
        return self._said[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def _both(self, index: int) -> tuple[Row, Conversation | PlainText]:
        if self._kept is not None:
            return self._kept[index]
        row = self._read_again(index)
        return row, self._converter(row)

    def _read_again(self, index: int) -> Row:
        location = self.location(index)
        at = self._places["path"][index]
        if at == _NOWHERE:
            return row_in_memory(self._source, self._places["number"][index])
        path = self._names[at]
        line = Line(Path(path), self._places["offset"][index], self._places["size"][index])
        try:
            with line.path.open("rb") as opened:
                if _stamp(line.path) != self._stamps[path]:
                    raise DataError(f"{path}: the file has changed since it was read. Start again.")
                opened.seek(line.offset)
                values = row_of_line(opened.read(line.size), line.path, location)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
        return Row(values, location, line)

    def _name(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._names)
            self._names.append(text)
        return number

    def identity(self, indices: np.ndarray) -> bytes:
        """What the rows mean and where they stand.

        Args:
            indices: int64 (rows,).
        """
        columns: list[np.ndarray] = [
            np.frombuffer(self._places["prefix"], np.int64),
            np.frombuffer(self._places["number"], np.int64),
            np.frombuffer(self._content, np.uint8).reshape(-1, HASH_BYTES),
        ]
        head = json.dumps([len(indices), self._names]).encode()
        return head + b"".join(column[indices].tobytes() for column in columns)

    def index(self) -> bytes:
        """Places and hashes of all rows, as `from_index` reads them."""
        buffer = BytesIO()
        arrays: dict[str, Any] = {n: np.array(self._places[n], dtype=np.int64) for n in _PLACES}
        names = np.frombuffer(json.dumps(self._names).encode(), dtype=np.uint8)
        hashes = np.frombuffer(bytes(self._content), dtype=np.uint8)
        np.savez(buffer, names=names, content=hashes, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_index(cls, source: Any, converter: Converter, index: bytes) -> RowSet | None:
        """A set whose rows are read when they are needed; None if the index is damaged."""
        rows = cls(source, converter)
        try:
            with np.load(BytesIO(index), allow_pickle=False) as arrays:
                rows._names = json.loads(arrays["names"].tobytes())
                rows._content = bytearray(arrays["content"].tobytes())
                rows._places = {
                    n: array("q", arrays[n].astype(np.int64).tobytes()) for n in _PLACES
                }
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        rows._kept = None
        return rows


def index_path(folder: str | Path, source: Any, settings: Sequence[Any]) -> Path | None:
    """Where the index of a set is kept: named by what its files hold and by what converts them.

    Args:
        settings: what else decides what a row means, as JSON values.

    Returns:
        None for rows that do not all stand in lines of files.
    """
    files = files_of(source)
    if not files or any(file.suffix not in LINE_SUFFIXES for file in files):
        return None
    digest = hashlib.sha256(code_version().encode())
    digest.update(json.dumps([str(source), *settings]).encode())
    for file in files:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(json.dumps([str(file), content]).encode())
    return Path(folder) / "rows" / f"{digest.hexdigest()}.npz"


def stamps_of(source: Any) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file of a source: another stamp, another content."""
    return {str(file): _stamp(file) for file in files_of(source)}


def content_of(meant: Conversation | PlainText) -> bytes:
    """What decides what is trained. In the order given: templates write a tool call's arguments in
    it."""
    if isinstance(meant, PlainText):
        return json.dumps(meant.text).encode()
    turns: list[str] = []
    for message in meant.messages:
        content = message.get("content")
        if len(message) != 2 or type(content) is not str or meant.tools:
            return json.dumps([meant.messages, meant.weights, meant.tools]).encode()
        turns += (message["role"], content)
    # Roles and texts alone, as most rows have them: JSON would take a quarter of reading a row.
    head = f"turns {meant.weights} {[*map(len, turns)]} "
    return (head + "".join(turns)).encode("utf-8", "surrogatepass")


def said_in(meant: Conversation | PlainText) -> bytes:
    """What user and assistant say, white space aside."""
    said = (
        [["text", _squeezed(meant.text)]]
        if isinstance(meant, PlainText)
        else [
            [m["role"], _squeezed(_text_of(m)), m.get("tool_calls", [])]
            for m in meant.messages
            if m["role"] in ("user", "assistant")
        ]
    )
    return json.dumps(said).encode()


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns
