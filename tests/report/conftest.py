"""Runs and their pages, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.report.comparison import write_comparison
from lorakit.report.page import write_report
from tests.report.runs import make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `first`, `second` and `third`, in which everything is there."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "first")
    make_run(folder / "second", seed=1, r=32)
    make_run(folder / "third <b>", seed=2, use_dora=False)
    return folder


@pytest.fixture(scope="session")
def page(made: Path) -> str:
    """The page of the first run."""
    return write_report(made / "first").read_text("utf-8")


@pytest.fixture(scope="session")
def comparison(made: Path) -> str:
    """The page of all three."""
    runs = sorted(path for path in made.iterdir() if path.is_dir())
    return write_comparison(runs, made / "comparison.html").read_text("utf-8")


@pytest.fixture(params=["page", "comparison"])
def any_page(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))
