"""Strict JSON from files: every fault is a DataError that names the file and the line.

Limits are for files nobody vetted: lines of 16 MiB, 64 levels of nesting; UTF-8 only, no NaN, no
duplicate keys, no lone surrogates (half a character, which no tokenizer can encode).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorakit.errors import DataError, kind_of
from lorakit.files import strict_json

MAX_LINE_BYTES = 16 << 20
MAX_FILE_BYTES = 2 << 30
MAX_DEPTH = 64
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any], int, int]]:
    """Yield (1-based line, row, byte where the line starts, bytes it has) of a JSONL file; blank
    lines are skipped.

    Raises:
        DataError: naming file and line of the first fault.
    """
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file, path), start=1):
            text = decode(line.removeprefix(_BOM) if number == 1 else line, path, number)
            if text.strip():
                yield number, _row(text, f"{path}:{number}"), start, len(line)
            start += len(line)


def row_of_line(line: bytes, path: Path, where: str) -> dict[str, Any]:
    """The row of a line that `read_json_lines` found."""
    return _row(decode(line.removeprefix(_BOM), path), where)


def _row(text: str, where: str) -> dict[str, Any]:
    row = parse(text.rstrip("\r\n"), where)
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: the line holds {kind_of(row)}; each line of a .jsonl file must be one JSON "
            "object. Write one row per line."
        )
    return row


def read_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based row, row) of a JSON file: a list of objects, or an object with one such list.

    Raises:
        DataError: naming file and place of the first fault.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes; a .json file is read whole and may have "
            f"{MAX_FILE_BYTES}. Write it as .jsonl, one row per line."
        )
    document = parse(decode(path.read_bytes().removeprefix(_BOM), path), str(path))
    rows = document if isinstance(document, list) else _only_list(document, path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: row {number} is {kind_of(row)}; every row must be a JSON object."
            )
        yield number, row


def decode(data: bytes, path: Path, first_line: int = 1) -> str:
    """UTF-8 text of which `first_line` is the first, or a DataError that names the bad byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        column = error.start - data.rfind(b"\n", 0, error.start)
        # Windows' shells and Excel's "Unicode text" write it: as latin1 it would become rubbish.
        written = "utf-16" if data.startswith(_UTF16) else "latin1"
        raise DataError(
            f"{path}:{line}: byte {column} (0x{data[error.start]:02x}) is not UTF-8. Data files "
            f"are UTF-8; convert the file, for example with `iconv -f {written} -t utf-8`."
        ) from None


def parse(text: str, where: str) -> Any:
    """Strict JSON, or a DataError."""
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise DataError(f"{where}: JSON nested more than {MAX_DEPTH} levels deep. Flatten the row.")
    try:
        value = strict_json(text)
    except json.JSONDecodeError as error:
        column = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(
            f"{where}: broken JSON at {column}character {error.colno}: {error.msg}. Fix that line."
        ) from None
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from None
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(value, where)
    return value


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes; a row may have "
                "that much. Split the row, or check that the file is JSON lines."
            )
        yield line


def _only_list(document: Any, path: Path) -> list[Any]:
    lists = (
        {key: value for key, value in document.items() if isinstance(value, list)}
        if isinstance(document, dict)
        else {}
    )
    if len(lists) != 1:
        raise DataError(
            f"{path}: holds {kind_of(document)} with {len(lists)} lists ({sorted(lists)}); a .json "
            "file is a list of rows, or an object with exactly one list. Use .jsonl for one row "
            "per line."
        )
    return next(iter(lists.values()))


def _check_surrogates(value: Any, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: a string holds half a surrogate pair (\\ud800 to \\udfff alone), which is "
            "no character. Write the whole pair, or the character itself."
        ) from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest
