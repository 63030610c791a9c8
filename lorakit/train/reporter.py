"""Where the metrics lines of a run go: its file, the loggers, the log, and who looks at them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorakit.progress import bars_are_shown
from lorakit.train.loggers import Logger, open_loggers
from lorakit.train.metrics import MetricsFile
from lorakit.train.run_state import MethodState
from lorakit.train.settings import LoopSettings
from lorakit.train.step_log import StepLog
from lorakit.train.watch import judged_at, stalled

log = logging.getLogger(__name__)


class Reporter:
    """Takes the lines of a run.

    Args:
        settings: of the run.
        num_steps: optimizer steps of the whole run.
        run_dir: where metrics.jsonl is; None: nothing is written.
        reports: whether this process does: the first of several.
        method_state: looks at the lines of its method; None: the loss has to fall.

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
        method_state: MethodState | None,
    ) -> None:
        self.lines: list[dict[str, Any]] = []
        self._settings = settings
        self._run_dir = run_dir
        self._reports = reports
        self._method_state = method_state
        self._file: MetricsFile | None = None
        self._loggers: Sequence[Logger] = ()
        self._step_log = StepLog(num_steps, has_bar=bars_are_shown())
        self._is_judged = False  # whether it was seen that the loss falls, or does not

    def open(self, step: int) -> None:
        """Go on after a step: later lines are removed."""
        if self._run_dir is not None:
            self._file = MetricsFile(self._run_dir, last_step=step)
            self.lines = self._file.lines
        if self._reports:
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
        if self._file is not None:
            self._file.append(line)
        self.lines.append(line)
        for logger in self._loggers:
            logger.log(line["step"], {k: v for k, v in line.items() if k != "step"})
        if self._reports:
            self._step_log.tell(line)
            self._look()

    def facts(self) -> str:
        """The last line's reward or loss, and its speed, for the progress bar."""
        if not self.lines:
            return ""
        line = self.lines[-1]
        told = f"reward {line['reward']:.3f}" if "reward" in line else f"loss {line['loss']:.4f}"
        return f"{told} {line['tokens_per_second']:.0f} tokens/s"

    def _look(self) -> None:
        """Say once if the loss does not fall in the first steps, or what a method looks at."""
        if self._method_state is not None:  # only a likelihood's loss must fall
            for said in self._method_state.look(self.lines):
                log.warning("%s", said)
            return
        if self._is_judged:
            return
        steps, losses, rates = (
            [line[name] for line in self.lines] for name in ("step", "loss", "learning_rate")
        )
        judged = judged_at(steps, rates)
        self._is_judged = judged is not None
        if judged == len(steps) - 1:  # else it was said before the run was resumed
            found = stalled(steps, losses, rates)
            if found is not None:
                log.warning("%s: %s", found.saw(), found.do())
