"""Rows from every kind of source, and a clear message for every kind of fault."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.data.json_lines import MAX_LINE_BYTES, parse
from lorakit.data.sources import read_rows
from lorakit.errors import DataError

ROWS = [{"question": 'a, "b"?', "answer": "\u00e9\n\u6f22"}, {"question": "c?", "answer": "d"}]


def _jsonl(path: Path, rows=ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _csv(path: Path) -> Path:
    path.write_text('question,answer\n"a, ""b""?","\u00e9\n\u6f22"\nc?,d\n', encoding="utf-8")
    return path


def _parquet(path: Path) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize(
    ("name", "write", "places"),
    [
        ("a.jsonl", _jsonl, (1, 2)),
        ("a.ndjson", _jsonl, (1, 2)),
        ("a.json", lambda path: path.write_text(json.dumps(ROWS)), (1, 2)),
        ("a.json", lambda path: path.write_text(json.dumps({"v": 1, "data": ROWS})), (1, 2)),
        ("a.csv", _csv, (2, 4)),
        ("a.parquet", _parquet, (1, 2)),
    ],
)
def test_every_file_kind_gives_the_same_rows(tmp_path: Path, name, write, places) -> None:
    path = tmp_path / name
    write(path)
    rows = list(read_rows(path))
    assert [dict(row.values) for row in rows] == ROWS
    assert [row.location for row in rows] == [f"{path}:{place}" for place in places]
    assert list(read_rows(str(path))) == rows


def test_rows_in_memory_and_data_sets() -> None:
    assert [dict(row.values) for row in read_rows(ROWS)] == ROWS
    assert [row.location for row in read_rows(ROWS)] == ["memory:1", "memory:2"]
    assert [dict(row.values) for row in read_rows(datasets.Dataset.from_list(ROWS))] == ROWS


def test_a_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    _jsonl(tmp_path / "b.jsonl", ROWS[1:])
    _jsonl(tmp_path / "a.jsonl", ROWS[:1])
    (tmp_path / "readme.md").write_text("not data")
    assert [dict(row.values) for row in read_rows(tmp_path)] == ROWS


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert [(dict(r.values)["a"], r.location) for r in read_rows(path)] == [
        (1, f"{path}:1"),
        (2, f"{path}:4"),
    ]


FAULTS = {
    "broken JSON": (b'{"a": 1}\n{"a": \n', r"a\.jsonl:2: broken JSON at character \d+"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), r"a\.jsonl:1: .*iconv -f utf-16 -t utf-8"),
    "not UTF-8": (b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl:2: byte 8 \(0xff\) is not UTF-8"),
    "no object": (b"[1, 2]\n", r"a\.jsonl:1: the line holds a list"),
    "NaN": (b'{"a": NaN}\n', r"a\.jsonl:1: NaN is not JSON"),
    "duplicate key": (b'{"a": 1, "a": 2}\n', r"a\.jsonl:1: the key 'a' stands twice"),
    "half a character": (b'{"a": "\\ud800"}\n', r"a\.jsonl:1: a string holds half a surrogate"),
    "too deep": (b'{"a": ' + b"[" * 99999 + b"]" * 99999 + b"}\n", r"a\.jsonl:1: JSON nested more"),
    "huge number": (b'{"a": 1' + b"0" * 5000 + b"}\n", r"a\.jsonl:1: "),
    "empty": (b"", r"a\.jsonl: no rows"),
    "only blanks": (b"\n\n \n", r"a\.jsonl: no rows"),
    "long line": (b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}', r"a\.jsonl:1: the line is longer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_a_jsonl_file_is_named_with_its_line(tmp_path: Path, fault: str) -> None:
    content, message = FAULTS[fault]
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(path))


def test_faults_of_other_files_are_named(tmp_path: Path) -> None:
    for name, content, message in [
        ("a.csv", b"a,b\n1,2,3\n", r"a\.csv:2: 3 cells, but the header names 2"),
        ("b.csv", b"a,a\n1,2\n", r"b\.csv:1: column names"),
        ("c.csv", b"a,b\n", r"c\.csv: no rows"),
        ("e.csv", b"a\nb\nc\xff\n", r"e\.csv:3: byte 2 \(0xff\) is not UTF-8"),
        ("d.csv", b'a\n"x\n', r"d\.csv:\d: broken CSV"),
        ("a.json", b'{"a": [1], "b": [2]}', r"a\.json: holds an object with 2 lists"),
        ("b.json", b"[1]", r"b\.json:1: row 1 is a number"),
        ("c.json", b'[\n{"a": 1},\n{"a" 2}]', r"c\.json: broken JSON at line 3, character 6"),
        ("a.parquet", b"PAR1 nonsense", r"a\.parquet: broken Parquet"),
        ("a.xlsx", b"PK", r"a\.xlsx: '\.xlsx' is not a data format"),
        ("a.pkl", b"\x80\x04N.", r"a\.pkl: '\.pkl' is not a data format"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            list(read_rows(path))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_header_of_a_csv_file_shows_its_separator(tmp_path: Path, separator: str) -> None:
    """As a German Excel writes it: a byte order mark, semicolons, decimal commas, CRLF."""
    path = tmp_path / "a.csv"
    lines = [["question", '"the answer, or; what\tit is"'], ["c?", '"1,5; 2\t3"']]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(separator.join, lines)).encode())
    (row,) = read_rows(path)
    assert row.values == {"question": "c?", "the answer, or; what\tit is": "1,5; 2\t3"}


def test_a_header_that_two_separators_could_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question;answer, in short\na;b\n")
    with pytest.raises(DataError, match=r"a\.csv:1: ',' and ';' could each separate .*quotes"):
        list(read_rows(path))
    path.write_text("question;answer\na;b;c\n")
    with pytest.raises(DataError, match=r"a\.csv:2: 3 cells, .* Quote cells that contain ';'"):
        list(read_rows(path))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    _jsonl(tmp_path / "small_train_2000.jsonl")
    with pytest.raises(DataError, match=r"no such file\. Did you mean .*small_train_2000\.jsonl\?"):
        list(read_rows(tmp_path / "small_trian_2000.jsonl"))
    with pytest.raises(DataError, match="nor is there a folder"):
        list(read_rows(tmp_path / "nowhere" / "a.jsonl"))
    with pytest.raises(DataError, match="no data files in this folder"):
        (tmp_path / "bare").mkdir()
        list(read_rows(tmp_path / "bare"))


@pytest.mark.parametrize("here", [True, False])
def test_a_missing_file_like_no_other_names_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("q.csv") if here else tmp_path / "q.csv"
    there = "The current folder" if here else str(tmp_path)
    (tmp_path / "readme.md").write_text("not data")
    with pytest.raises(DataError) as none:
        list(read_rows(path))
    assert str(none.value).startswith(f"{path}: no such file. {there} holds no data file (.jsonl,")
    for number in range(7):
        _jsonl(tmp_path / f"other{number}.jsonl")
    with pytest.raises(DataError) as some:
        list(read_rows(path))
    assert f"{there} holds other0.jsonl, " in str(some.value)
    assert str(some.value).endswith("other4.jsonl and 2 more. Check the path.")


def test_options_of_the_hub_are_refused_elsewhere(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="split only apply to a hub id"):
        list(read_rows(path, split="train"))
    with pytest.raises(DataError, match="split and name"):
        list(read_rows(ROWS, split="train", name="x"))


def test_an_unreachable_hub_id_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise ConnectionError("no network.\nTry again later.")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(DataError, match="as a hub id it could not be loaded: no network\\. Check"):
        list(read_rows("owner/name"))
    with pytest.raises(DataError, match="neither an existing path nor a hub id"):
        list(read_rows("what is this"))


@pytest.mark.filterwarnings("ignore:The Pandas builder is deprecated")
@pytest.mark.parametrize(("reader", "allowed"), [("json", True), ("pandas", False)])
def test_a_hub_id_is_read_by_readers_of_plain_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, allowed: bool
) -> None:
    """The builder that datasets would choose is made from local files here."""
    _jsonl(tmp_path / "rows.jsonl")
    make, asked = datasets.load_dataset_builder, []

    def local(path: str, name: str | None) -> datasets.DatasetBuilder:
        asked.append((path, name))
        files = {"validation": str(tmp_path / "rows.jsonl")}
        return make(reader, data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", local)
    if allowed:
        rows = list(read_rows("owner/name", split="validation", name="small"))
        assert [dict(row.values) for row in rows] == ROWS
        assert [row.location for row in rows] == ["owner/name:1", "owner/name:2"]
    else:
        with pytest.raises(DataError, match="datasets' 'pandas' reader; only those of json"):
            list(read_rows("owner/name", split="validation", name="small"))
    assert asked == [("owner/name", "small")]


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        list(read_rows(tmp_path / "pipe.jsonl"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_give_rows_or_a_data_error(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_bytes(content)
    try:
        for row in read_rows(path):
            json.dumps(dict(row.values), ensure_ascii=False).encode()
    except DataError as error:
        assert str(path) in str(error)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(_JSON)
def test_strict_parsing_reads_all_json(value: object) -> None:
    assert parse(json.dumps(value), "here") == value


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_what_arrow_fills_in_is_taken_out_and_columns_stay(kind: str, tmp_path: Path) -> None:
    rows = [{"call": [{"city": "X"}], "note": None}, {"call": [{"amount": 3}], "note": "n"}]
    if kind == "parquet":
        path = tmp_path / "t.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        found = list(read_rows(path))
    else:
        found = list(read_rows(datasets.Dataset.from_list(rows)))
    assert [row.values for row in found] == rows
    kept = {"call": [{"city": None}]}
    assert [row.values for row in read_rows([kept])] == [kept]


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_blank_path_is_refused(blank: str) -> None:
    with pytest.raises(DataError, match="path of the data is blank"):
        list(read_rows(blank))


def test_a_licence_beside_the_data_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("All rights.")
    assert [row.values["text"] for row in read_rows(tmp_path)] == ["All rights."]
    _jsonl(tmp_path / "a.jsonl")
    assert [row.values for row in read_rows(tmp_path)] == ROWS
