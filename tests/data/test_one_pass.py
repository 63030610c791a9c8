"""Rows are tokenized while they are read: one pass, and nothing else is different."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorakit.data import render_many, row_set, sources
from lorakit.data.prepare import Prepared, prepare_examples, prepare_meanings, read_and_prepare
from lorakit.data.reading import DataRules, SourceSpec, read_meanings
from lorakit.data.render import Renderer
from lorakit.data.store import StoreWriter, TokenStore
from lorakit.errors import DataError
from lorakit.files import STAGING_PREFIX
from tests import tiny

SHORT = {"question": "Q?", "answer": "A."}
LONG = {"question": "Q?", "answer": "A long answer. " * 40}


def _questions(path: Path, count: int) -> Path:
    rows = [{"question": f"{i}?", "answer": f"A{i}."} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _stored_in_memory(prepared: Prepared) -> bool:
    return "tokens-not-stored" in {finding.id for finding in prepared.findings}


def test_rows_are_tokenized_while_later_ones_are_read(tmp_path: Path, monkeypatch) -> None:
    path = _questions(tmp_path / "a.jsonl", 400)
    monkeypatch.setattr(render_many, "CHUNK_ROWS", 2)
    finished: list[int] = []  # how many rows were read when the next one was finished
    read = 0
    add, from_text = row_set.RowSet.add, Renderer.from_text

    def counted(*given: object) -> None:
        nonlocal read
        read += 1
        add(*given)  # type: ignore[arg-type]

    def noted(*given: object) -> object:
        finished.append(read)
        return from_text(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(row_set.RowSet, "add", counted)
    monkeypatch.setattr(Renderer, "from_text", noted)
    prepared = prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=tmp_path / "c")
    assert prepared.kept == read == 400
    ahead = max(read - i for i, read in enumerate(finished))
    assert finished[0] < 100 and ahead < 100  # chunks that wait, never all rows
    assert isinstance(prepared.examples, TokenStore)


def test_one_pass_gives_what_reading_first_gives(tmp_path: Path) -> None:
    path = _questions(tmp_path / "a.jsonl", 50)
    path.write_text(path.read_text() + json.dumps(LONG) + "\n" + json.dumps(SHORT) + "\n" * 2)
    rules, cache = DataRules(max_length=100), tmp_path / "c"
    sets = [SourceSpec(path, weight=2.0), SourceSpec(path, system="S")]
    meanings, first = read_and_prepare(sets, tiny.tokenizer(), rules, cache_dir=cache)
    assert len(meanings) == first.read == 104 and first.dropped == 2
    stores = {place.name for place in cache.iterdir()}
    assert len(stores) == 2 and "rows" in stores
    apart = prepare_meanings(read_meanings(sets, rules), tiny.tokenizer(), rules, cache_dir=cache)
    memory = prepare_examples(sets, tiny.tokenizer(), rules)
    again = prepare_examples(sets, tiny.tokenizer(), rules, cache_dir=cache)
    assert {place.name for place in cache.iterdir()} == stores
    for other in (apart, memory, again):
        assert other.examples.fingerprint == first.examples.fingerprint
        assert (other.findings, other.stop_ids) == (first.findings, first.stop_ids)
        assert other.repeats.tolist() == first.repeats.tolist()
        assert list(other.rows) == list(first.rows)


def test_a_store_that_turns_out_to_be_there_is_used(tmp_path: Path) -> None:
    path, cache = _questions(tmp_path / "a.jsonl", 5), tmp_path / "c"
    prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    shutil.rmtree(cache / "rows")  # so that the key is not known before
    (place,) = cache.iterdir()
    made = place.stat().st_ino
    prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert place.stat().st_ino == made
    assert {one.name for one in cache.iterdir()} == {place.name, "rows"}


def test_faulty_rows_among_many_are_all_told_and_nothing_is_left(tmp_path: Path) -> None:
    path, cache = _questions(tmp_path / "a.jsonl", 3000), tmp_path / "c"
    lines = path.read_text().splitlines()
    for i in (600, 1500, 2900):
        lines[i] = json.dumps({"question": "Q?", "answer": ""})
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"3 of 3000 rows .*:601, .*:1501, .*:2901\)"):
        prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert not cache.exists() or list(cache.iterdir()) == []
    lines[2000] = "{broken"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"a\.jsonl:2001: broken JSON"):
        prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_what_a_crash_left_is_cleared_by_the_next_start(tmp_path: Path, monkeypatch) -> None:
    path, cache = _questions(tmp_path / "a.jsonl", 5), tmp_path / "c"
    staged: list[Path] = []

    def stopped(self: StoreWriter, *_: object) -> None:
        staged.append(self._staging)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "add", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert staged and not staged[0].exists()
    shutil.rmtree(cache / "rows")
    left = cache / f"{staged[0].name.rpartition('-')[0]}-0123"  # had there been no time to clear up
    left.mkdir()
    (left / "ids.bin").write_bytes(b"half")
    other = cache / f"{STAGING_PREFIX}other-0123"
    other.mkdir()
    prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert not left.exists()
    staging = [place for place in cache.iterdir() if place.name.startswith(STAGING_PREFIX)]
    assert staging == [other]  # of another job, which may be at work


def test_a_full_disk_leaves_the_tokens_in_memory(tmp_path: Path, monkeypatch) -> None:
    path, cache = _questions(tmp_path / "a.jsonl", 5), tmp_path / "c"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoreWriter, "add", full)
    prepared = prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert prepared.kept == 5 and _stored_in_memory(prepared)
    assert len(list(prepared.rows)) == 5
    assert not [one for one in threading.enumerate() if one.name.startswith("lorakit-")]
    assert not [place for place in cache.iterdir() if place.name != "rows"]


def test_no_index_names_a_file_that_changed_while_it_was_read(tmp_path: Path, monkeypatch) -> None:
    path, cache = _questions(tmp_path / "a.jsonl", 5), tmp_path / "c"
    read_json_lines = sources.read_json_lines

    def changed(file: Path) -> Iterator[tuple[int, dict, int, int]]:
        path.write_text(path.read_text() + json.dumps(SHORT) + "\n")
        return read_json_lines(file)

    monkeypatch.setattr(sources, "read_json_lines", changed)
    prepared = prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert prepared.kept == 6
    assert not (cache / "rows").exists()


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch) -> None:
    path = _questions(tmp_path / "a.jsonl", 5)
    opened = Path.open

    def refused(self: Path, *given: object, **named: object) -> object:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read: Permission denied"):
        prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=tmp_path / "c")
