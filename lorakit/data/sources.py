"""Rows from files, folders, the hub or memory, each with the place it came from.

How a string is told apart: `builtin:NAME` is a set that ships with lorakit. An existing file or
folder is read (`./builtin:NAME` if it is called so). Otherwise a string that looks like a path (it
ends in a data suffix, starts with `.`, `/` or `~`, or has more than one `/`) is a missing file, and
the error names the nearest existing one; anything else (`name` or `owner/name`) is a hub id.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lorakit import builtin
from lorakit.data.json_lines import MAX_LINE_BYTES, decode, read_json, read_json_lines
from lorakit.errors import DataError, in_one_line, kind_of
from lorakit.recipe.builtin_names import is_builtin_data

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".txt")
LINE_SUFFIXES = (".jsonl", ".ndjson")
NAMES_SHOWN = 5  # of the files of a folder, in a message
SAFE_READERS = ("json", "csv", "parquet", "arrow", "text")
SEPARATORS = (",", ";", "\t")  # of .csv files: Excel writes the second where commas are decimal
# The first record of a CSV file, up to the line break that is in no quotes.
_HEADER = re.compile(r'(?:"[^"]*"|[^"\r\n])*')
_QUOTED = re.compile(r'"[^"]*"')
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


@dataclass(frozen=True)
class Line:
    """A line of a file, from which a row can be read again: its first byte, and its bytes."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Row:
    """One row as read: its columns, and where it stands (`file:line`, 1-based; `memory:N`;
    `hub-id:N`)."""

    values: Mapping[str, Any]
    location: str
    line: Line | None = field(default=None, compare=False)


class Placed(Protocol):
    """What knows where it stands; a row, or the handle of one that need not be read for it."""

    @property
    def location(self) -> str: ...


Source = str | Path | Iterable[Mapping[str, Any]]


def read_rows(
    source: Source, *, split: str | None = None, name: str | None = None
) -> Generator[Row, None, None]:
    """Yield the rows of one source.

    Args:
        source: a file (.jsonl, .ndjson, .json, .csv, .parquet; .txt is one row with a `text`
            column), a folder of such files (read in sorted order), a hub id, `builtin:NAME`, a list
            of dicts, or a datasets.Dataset. The columns of a .csv file are separated by `,`, `;` or
            tabs: the header line shows which.
        split: split of a hub data set (default `train`); an error for anything else.
        name: configuration of a hub data set; an error for anything else.

    Raises:
        DataError: nothing there, nothing in it, or a fault at a named line.
    """
    if not isinstance(source, str | Path):
        _refuse_hub_options(split, name, "rows in memory")
        yield from _nonempty(_rows_in_memory(source), "the list of rows")
        return
    if not str(source).strip():
        raise DataError("the path of the data is blank. Name a file, a folder or a hub id.")
    if isinstance(source, str) and is_builtin_data(source):
        _refuse_hub_options(split, name, source)
        for row in _nonempty(_rows_of_file(builtin.data_file(source)), source):
            yield replace(row, location=f"{source}:{row.location.rpartition(':')[2]}")
        return
    path = Path(source).expanduser()
    if path.is_dir():
        _refuse_hub_options(split, name, str(source))
        for file in data_files(path):
            yield from _nonempty(_rows_of_file(file), str(file))
    elif path.exists():
        if not path.is_file():
            raise DataError(f"{path}: neither a file nor a folder. Name a data file.")
        _refuse_hub_options(split, name, str(source))
        yield from _nonempty(_rows_of_file(path), str(path))
    elif _looks_like_path(str(source)):
        raise DataError(_missing(path))
    else:
        yield from _nonempty(_rows_of_hub(str(source), split, name), str(source))


def data_files(folder: Path) -> list[Path]:
    """The data files directly in `folder`, sorted; a DataError if there are none.

    A .txt file beside files of other kinds is a licence or a note, not data.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise DataError(
            f"{folder}: no data files in this folder; {', '.join(SUFFIXES)} are read. "
            "Name the folder that holds them."
        )
    return [file for file in files if file.suffix != ".txt"] or files


def _rows_of_file(path: Path) -> Iterator[Row]:
    readers = {
        ".json": read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".txt": _read_text,
    }
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{path}: {path.suffix or 'no suffix'!r} is not a data format; {', '.join(SUFFIXES)} "
            "are read. Convert or rename the file."
        )
    try:
        if path.suffix in LINE_SUFFIXES:
            for number, values, offset, size in read_json_lines(path):
                yield Row(values, f"{path}:{number}", Line(path, offset, size))
            return
        for number, values in readers[path.suffix](path):
            yield Row(values, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV file with a header line; the number is the line where a row begins."""
    text = decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), path)
    separator = _separator_of(text, path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header) or "" in header:
            raise DataError(
                f"{path}:1: column names {header} must be given and differ. Fix the header."
            )
        ended = reader.line_num
        for cells in reader:
            first, ended = ended + 1, reader.line_num
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}:{first}: {len(cells)} cells, but the header names "
                    f"{len(header)} columns. Quote cells that contain {separator!r} or line breaks."
                )
            yield first, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken CSV: {error}. Fix that line.") from error


def _separator_of(text: str, path: Path) -> str:
    """The separator that stands between the names of the header."""
    found = _HEADER.match(text)
    bare = "" if found is None else _QUOTED.sub("", found[0])
    used = [separator for separator in SEPARATORS if separator in bare]
    if len(used) > 1:
        raise DataError(
            f"{path}:1: {' and '.join(map(repr, used))} could each separate the columns of the "
            f"header {bare!r}. Put double quotes around column names that contain one of them."
        )
    return used[0] if used else SEPARATORS[0]


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield number, _unfilled(values)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: broken Parquet: {error}. Write the file again.") from error


def _read_text(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.stat().st_size > MAX_LINE_BYTES:
        raise DataError(
            f"{path}: a .txt file is one row and may have {MAX_LINE_BYTES} bytes. Cut it into rows "
            "of a .jsonl file with a `text` column."
        )
    text = decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), path)
    if text.strip():
        yield 1, {"text": text}


def _rows_in_memory(rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    from_arrow = _is_from_arrow(rows)
    for number, values in enumerate(rows, start=1):
        if not isinstance(values, Mapping):
            raise DataError(
                f"memory:{number}: row {number} is {kind_of(values)}; a data set is a "
                "path, a hub id, a list of dicts, or a datasets.Dataset."
            )
        yield Row(_unfilled(values) if from_arrow else values, f"memory:{number}")


def _is_from_arrow(rows: object) -> bool:
    # Told by name, so that lists of dicts do not need the import, which takes seconds.
    return type(rows).__module__.startswith("datasets.")


def row_in_memory(rows: Any, number: int) -> Row:
    """Row `number`, 1-based, of a list of dicts or a datasets.Dataset that was read before."""
    values = rows[number - 1]
    return Row(_unfilled(values) if _is_from_arrow(rows) else values, f"memory:{number}")


def files_of(source: Source) -> list[Path]:
    """The files that `read_rows` reads for a source, in order; none for other sources."""
    if not isinstance(source, str | Path):
        return []
    if isinstance(source, str) and is_builtin_data(source):
        return [builtin.data_file(source)]
    path = Path(source).expanduser()
    if path.is_dir():
        return data_files(path)
    return [path] if path.is_file() else []


def _rows_of_hub(hub_id: str, split: str | None, name: str | None) -> Iterator[Row]:
    """Rows of a hub data set, if it consists of plain data files.

    `datasets` 4 and later run no code of a data set's repository, but some of its own readers
    unpickle (CVE-2026-57845); only those of plain files are let through.
    """
    if not _HUB_ID.fullmatch(hub_id):
        raise DataError(f"{hub_id!r} is neither an existing path nor a hub id (`owner/name`).")
    import datasets

    try:
        builder = datasets.load_dataset_builder(hub_id, name)
        reader = type(builder).__module__.rpartition(".")[2]
        if reader not in SAFE_READERS:
            raise DataError(
                f"{hub_id!r} is read by datasets' {reader!r} reader; only those of "
                f"{', '.join(SAFE_READERS)} files are let through. Convert it to Parquet."
            )
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split or "train")
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        nearest = _nearest(Path(hub_id))
        hint = f"; did you mean {nearest}?" if nearest else "."
        raise DataError(
            f"{hub_id!r} is no existing path, and as a hub id it could not be loaded: "
            f"{in_one_line(error)}. "
            f"Check the name, the split and the network{hint}"
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Row(_unfilled(values), f"{hub_id}:{number}")


def _unfilled(values: Mapping[str, Any]) -> dict[str, Any]:
    """An Arrow row without the nulls that fill the fields a struct lacks; its columns stay."""
    return {column: _without_nulls(value) for column, value in values.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value


def _nonempty(rows: Iterator[Row], what: str) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{what}: no rows in it. Give at least one row.")


def _refuse_hub_options(split: str | None, name: str | None, what: str) -> None:
    given = [key for key, value in (("split", split), ("name", name)) if value is not None]
    if given:
        raise DataError(f"{what}: {' and '.join(given)} only apply to a hub id. Remove them.")


def _looks_like_path(text: str) -> bool:
    return text.endswith(SUFFIXES) or text.startswith((".", "/", "~")) or text.count("/") > 1


def _missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: no such file, nor is there a folder {folder}. Check the path."
    nearest = _nearest(path)
    if nearest:
        return f"{path}: no such file. Did you mean {nearest}?"
    there = "The current folder" if folder == Path() else str(folder)
    data = sorted(entry.name for entry in folder.iterdir() if entry.suffix in SUFFIXES)
    if not data:
        return f"{path}: no such file. {there} holds no data file ({', '.join(SUFFIXES)})."
    more = f" and {len(data) - NAMES_SHOWN} more" if len(data) > NAMES_SHOWN else ""
    listed = ", ".join(data[:NAMES_SHOWN])
    return f"{path}: no such file. {there} holds {listed}{more}. Check the path."


def _nearest(path: Path) -> Path | None:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    data = [name for name in names if name.endswith(SUFFIXES)]
    close = difflib.get_close_matches(path.name, data or names, n=1, cutoff=0.3)
    return path.parent / close[0] if close else None
