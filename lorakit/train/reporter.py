"""Where the metrics lines of a run go: its file, the loggers, the log, and who looks at them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorakit.data.silence import Told
from lorakit.progress import bars_are_shown
from lorakit.train.loggers import Logger, open_loggers
from lorakit.train.metrics import MetricsFile
from lorakit.train.settings import LoopSettings
from lorakit.train.step_log import StepLog
from lorakit.train.watch import Watch

log = logging.getLogger(__name__)


class Reporter:
    """Takes the lines of a run.

    Args:
        settings: of the run.
        num_steps: optimizer steps of the whole run.
        run_dir: where metrics.jsonl is; None: nothing is written.
        reports: whether this process does: the first of several.
        watch: looks at the lines; what it sees is said, and stands in the line that shows it.

    Attributes:
        lines: all of the run, earlier processes included.
    """

    def __init__(
        self,
        settings: LoopSettings,
        num_steps: int,
        *,
        run_dir: Path | None,
        reports: bool,
        watch: Watch,
    ) -> None:
        self.lines: list[dict[str, Any]] = []
        self._settings = settings
        self._run_dir = run_dir
        self._reports = reports
        self._watch = watch
        self._file: MetricsFile | None = None
        self._loggers: Sequence[Logger] = ()
        self._step_log = StepLog(num_steps, has_bar=bars_are_shown())

    def open(self, step: int) -> None:
        """Go on after a step: later lines are removed."""
        if self._run_dir is not None:
            self._file = MetricsFile(self._run_dir, last_step=step)
            self.lines = self._file.lines
        if self._reports:
            self._watch.open(self.lines)
            self._loggers = open_loggers(
                self._settings.report_to,
                self._run_dir,
                first_step=step,
                config=asdict(self._settings),
            )

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        for logger in self._loggers:
            logger.close()

    def sync(self) -> None:
        """Force the lines to disk."""
        assert self._file is not None
        self._file.sync()

    def write(self, line: dict[str, Any]) -> None:
        """Take the newest line."""
        told = self._watch.look(line) if self._reports else Told()
        whole = line | told.to_json()
        if self._file is not None:
            self._file.append(whole)
        self.lines.append(whole)
        for logger in self._loggers:  # they take numbers
            logger.log(line["step"], {k: v for k, v in line.items() if k != "step"})
        if self._reports:
            self._step_log.tell(line)
            told.say(log)

    def facts(self) -> str:
        """The last line's reward or loss, and its speed, for the progress bar."""
        if not self.lines:
            return ""
        line = self.lines[-1]
        told = f"reward {line['reward']:.3f}" if "reward" in line else f"loss {line['loss']:.4f}"
        return f"{told} {line['tokens_per_second']:.0f} tokens/s"
