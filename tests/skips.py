"""A skip that nobody expected fails the run; `allowed_skips.txt` lists the reasons that may."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")

_surprises: list[str] = []


def allowed_reasons() -> list[str]:
    """The patterns of `allowed_skips.txt`, comments left out."""
    lines = ALLOWED.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):  # pytest's own way to mark an xfail
        return
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")  # (file, line, reason)
    if not any(fnmatch.fnmatchcase(reason, pattern) for pattern in allowed_reasons()):
        _surprises.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Workers of pytest-xdist send their reports on; only the process that shows them decides.
    if _surprises and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _surprises:
        terminalreporter.section("skips that are not in tests/allowed_skips.txt")
        for line in _surprises:
            terminalreporter.line(line)
