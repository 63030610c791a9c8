"""What verbs share: which libraries are imported first."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.cli import output


@pytest.mark.parametrize("name", output.WITHOUT_TRITON)
def test_what_is_imported_first_is_there(name: str) -> None:
    """Else a command is slower, and nobody knows why."""
    assert output._is_there(name)


def test_only_what_is_absent_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not output._is_there("transformers.no_such_module")
    assert not output._is_there("no_such_library.part")
    (tmp_path / "half_installed").mkdir()
    (tmp_path / "half_installed" / "__init__.py").write_text("import no_such_library\n")
    (tmp_path / "half_installed" / "part.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        output._is_there("half_installed.part")
