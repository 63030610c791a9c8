"""Runs and their pages, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from lorakit.report.check_page import check_page
from lorakit.report.comparison import write_comparison
from lorakit.report.page import write_report
from lorakit.report.plan_page import plan_page
from lorakit.report.ways_files import Answered, WaysFile
from lorakit.report.ways_page import ways_page
from tests.report.plans import check_told, plan_recipe, plan_told
from tests.report.runs import make_run
from tests.report.ways import answers_told, compare_told


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


@pytest.fixture(scope="session")
def plan_html() -> str:
    """The page of a plan that knows everything."""
    return plan_page(plan_told(), plan_recipe(), source=Path("clinic.yaml"))


@pytest.fixture(scope="session")
def check_html() -> str:
    """The page of a check with findings of every severity."""
    return check_page(check_told(), plan_recipe(), source=Path("clinic.yaml"))


@pytest.fixture(scope="session")
def ways_html() -> str:
    """The page of five ways to answer."""
    found = TypeAdapter(WaysFile).validate_python(compare_told())
    answered = TypeAdapter(list[Answered]).validate_python(answers_told())
    return ways_page(found, answered, source=Path("compare.json"))


@pytest.fixture(params=["page", "comparison", "plan_html", "check_html", "ways_html"])
def any_page(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))
