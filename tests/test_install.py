"""What the README says of installing is what make and the pins do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_one_target_installs_and_runs_nothing(tmp_path: Path) -> None:
    """Under another VENV, so that nothing is installed already."""
    told = subprocess.run(
        ["make", "--dry-run", "install", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--constraint constraints.txt --editable ." in told
    assert "-m pytest" not in told and "lorakit demo" not in told
    assert "make install" in (ROOT / "README.md").read_text("utf-8")


def test_the_readme_names_the_pinned_torch() -> None:
    pinned = re.search(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert pinned is not None
    assert f"pip install {pinned[0]} --index-url https://download.pytorch.org/whl/cpu" in readme
