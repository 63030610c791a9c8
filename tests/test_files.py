"""A write is whole or absent, and the next one clears what a kill left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.errors import InputError
from lorakit.files import STAGING_PREFIX, new_folder, staged_folder, write_atomically


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


def test_a_link_to_an_empty_folder_stays_and_its_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert new_folder(tmp_path / "link") == (tmp_path / "real").resolve()
    with staged_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]
    with pytest.raises(InputError, match="not an empty folder"):
        new_folder(tmp_path / "link")


def test_places_that_no_folder_can_be_put_in_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for output, fault in (
        (tmp_path / "file", "not an empty folder"),
        (tmp_path / "file" / "below" / "it", "file is a file"),
        (Path(), "the folder you are in"),
    ):
        with pytest.raises(InputError, match=fault):
            new_folder(output)
    assert new_folder(Path("new") / "deep") == (tmp_path / "empty" / "new" / "deep").resolve()
    monkeypatch.setattr("os.path.ismount", lambda path: path.name == "mounted")
    (tmp_path / "mounted").mkdir()
    with pytest.raises(InputError, match="a mount point"):
        new_folder(tmp_path / "mounted")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "empty", "mounted"}
