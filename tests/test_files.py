"""A write is whole or absent, and the next one clears what a kill left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.files import STAGING_PREFIX, staged_folder, write_atomically


def test_the_next_write_removes_what_a_kill_left(tmp_path: Path) -> None:
    (tmp_path / f"{STAGING_PREFIX}a[1].json-0123").write_bytes(b"half")
    (tmp_path / f"{STAGING_PREFIX}other.json-0123").write_bytes(b"somebody else's")
    write_atomically(tmp_path / "a[1].json", b"whole")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a[1].json", f"{STAGING_PREFIX}other.json-0123"}
    assert (tmp_path / "a[1].json").read_bytes() == b"whole"


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / f"{STAGING_PREFIX}out-0123").mkdir()
    (tmp_path / f"{STAGING_PREFIX}out-0123" / "half").touch()
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "out") as folder:
        (folder / "file").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []
    with staged_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
