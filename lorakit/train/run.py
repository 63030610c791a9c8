"""A run between its steps, whatever the method: counters, validation, metrics, checkpoints."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from lorakit.adapters.starting import restore_starts
from lorakit.engine.recompute import Recompute
from lorakit.errors import InterruptionError
from lorakit.files import write_json
from lorakit.progress import Bar, bar
from lorakit.train.batches import StepBatch
from lorakit.train.checkpoint import Checkpoint, Tensors
from lorakit.train.faults import every_tensor_trains, name_first_non_finite
from lorakit.train.losses import StoppedError
from lorakit.train.memory import peak_bytes
from lorakit.train.non_finite import step_error
from lorakit.train.reporter import Reporter
from lorakit.train.run_state import Counters, MethodState
from lorakit.train.setup import Setup
from lorakit.train.step import StepResult, take_step
from lorakit.train.validations import Validations
from lorakit.train.watch import Watch

CHOICES_NAME = "choices.json"
FINISHED, STOPPED_EARLY = "finished", "early stopping"

log = logging.getLogger(__name__)


class Run:
    """A run after its last settled step.

    Args:
        setup: what it trains, and with what.
        num_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of one epoch; a policy's may have a fraction.
        watch: looks at its metrics lines.
        method_state: what the method keeps; None: nothing.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        num_steps: int,
        steps_per_epoch: float,
        watch: Watch,
        method_state: MethodState | None = None,
    ) -> None:
        job = setup.job
        self.model, self.adapter, self.pad_id = job.model, job.adapter, job.pad_id
        self.optimizer, self.choices, self.caught = setup.optimizer, setup.choices, setup.caught
        self.num_steps = num_steps
        self.counters = Counters()
        self.validations = Validations(setup)
        self._settings = job.settings
        self._ranks = job.ranks
        self._setup = setup
        self._schedule = job.settings.schedule(num_steps)
        self._steps_per_epoch = steps_per_epoch
        self._run_dir = job.run_dir if job.ranks.writes else None
        self._store = setup.own_store
        self._method_state = method_state
        self._reporter = Reporter(
            job.settings,
            num_steps,
            run_dir=self._run_dir,
            reports=job.ranks.writes,
            watch=watch,
        )
        self._mark = 0.0  # when the seconds were last counted

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Of the metrics, earlier processes included."""
        return self._reporter.lines

    def announce(self, examples: str, batch: str) -> None:
        """Say what is about to be done; both as in "100 examples"."""
        if self._ranks.writes:
            log.info(
                "training %s parameters on %s: %d steps of %s, learning rate %g (%s)",
                f"{self.adapter.trainable:,}",
                examples,
                self.num_steps,
                batch,
                self._settings.learning_rate,
                self._settings.lr_scheduler_type,
            )

    @contextmanager
    def opened(self) -> Iterator[Bar]:
        """Go on from the checkpoint, or start; inside, files are open and a bar counts the steps.

        A run that comes to the end of the block is finished.
        """
        try:
            self._open()
            with bar("training", self.num_steps) as progress:
                progress.advance(self.counters.step)
                yield progress
        finally:
            self._reporter.close()
            if self._method_state is not None:
                self._method_state.close()
        if self.counters.stopped is None:
            self.counters.stopped = FINISHED
        self.validations.finish()

    def take(self, batch: StepBatch, recompute: Recompute, *, looks: bool = False) -> StepResult:
        """Queue an optimizer step.

        Args:
            recompute: of `training_mode`.
            looks: whether to see that every tensor of the adapter trains.
        """
        looking = every_tensor_trains(self.model, self.adapter) if looks else nullcontext()
        with looking:
            return take_step(
                self.model,
                self.adapter,
                self.optimizer,
                batch,
                learning_rate=self._schedule.learning_rate(batch.step),
                max_grad_norm=self._settings.max_grad_norm,
                seed=self._settings.seed,
                recompute=recompute,
                sum_over_ranks=self._ranks.sum,
            )

    def settle(self, result: StepResult, *, is_latest: bool) -> None:
        """Read a step's numbers, count it, and do what is due after it but saving.

        Args:
            is_latest: no later step was queued, so the device is done when its numbers are here.

        Raises:
            NonFiniteError: the step was not finite.
        """
        loss, grad_norm, finite = result.read()
        if not finite:
            self._fail(result.batch)
        counters = self.counters
        counters.count_step(result.batch, loss)
        self._count_seconds(time.monotonic() if is_latest else result.queued_at)
        logs = self._is_due(counters.step, self._settings.logging_steps)
        if logs or self.validates_at(counters.step):
            counters.due_line = (result.learning_rate, grad_norm)
            self._report()

    def count_generation(self) -> None:
        """Count the seconds since the last step: they are the run's, but no training step's."""
        now = time.monotonic()
        self.counters.seconds += now - self._mark
        self._mark = now

    def validates_at(self, step: int) -> bool:
        """Whether validation runs once `step` steps are done."""
        every = self._settings.eval_steps or math.ceil(self._steps_per_epoch)
        return self.validations.are_made and self._is_due(step, every)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due once `step` steps are done."""
        every = self._settings.save_steps or math.ceil(self._steps_per_epoch)
        return self._store is not None and self._is_due(step, every)

    def pauses_at(self, step: int) -> bool:
        """Whether step `step` must be settled before the next one is queued."""
        return self.validates_at(step) or self.saves_at(step) or step == self.num_steps

    def facts(self) -> str:
        """For the progress bar."""
        return self._reporter.facts()

    def interruption(self, kept: str = "") -> InterruptionError:
        """What to raise when the run stops for a signal, which another rank may have got.

        Args:
            kept: what the checkpoint has beside the state after a step.
        """
        number = self.caught.received or signal.SIGTERM
        place = self._setup.last_checkpoint()
        saved = "nothing was saved: no run folder was given"
        if place is not None:
            saved = f"saved {place}{kept}"
        return InterruptionError(
            f"stopped by {number.name} after step {self.counters.step} of {self.num_steps}; "
            f"{saved}. Resume the run to go on.",
            number,
        )

    def save(self, *, anew: bool = False) -> None:
        """Write a checkpoint of this very state.

        Args:
            anew: in place of one of the same step, which knows less of what the method keeps;
                else that one stays.
        """
        if self._store is None or (self.counters.step in self._store.steps() and not anew):
            return
        self._reporter.sync()
        tensors: dict[str, Tensors] = {
            "parameters": self.optimizer.parameters(),
            "optimizer": self.optimizer.moments(),
        }
        if self.validations.best is not None:
            tensors["best"] = self.validations.best
        starts = self.adapter.kept_starts()
        if starts:
            tensors["starts"] = starts
        state = {
            "counters": asdict(self.counters),
            "early_stopping": self.validations.to_json(),
            "choices": self.choices.to_json(),
        }
        if self._method_state is not None:
            tensors |= self._method_state.tensors()
            state["method"] = self._method_state.to_json()
        path = self._store.save(self.counters.step, tensors, state, anew=anew)
        log.info("saved %s", path)
        self._mark = time.monotonic()

    def _open(self) -> None:
        """Opens the files, and catches up on a validation that a signal had cut short."""
        if self._setup.checkpoint is not None:
            self._restore(self._setup.checkpoint)
        if self._run_dir is not None:
            write_json(self._run_dir / CHOICES_NAME, self.choices.to_json())
        self._reporter.open(self.counters.step)
        if self._method_state is not None:
            self._method_state.open(self._run_dir, self.counters.step)
        self._mark = time.monotonic()
        self._report()

    def _restore(self, checkpoint: Checkpoint) -> None:
        state, tensors = checkpoint.state, checkpoint.tensors
        self.counters = Counters(**state["counters"])
        self.validations.restore(checkpoint)
        # Before the parameters: a kind may set some of its own where it begins.
        restore_starts(self.model, self.adapter, tensors.get("starts", {}))
        self.optimizer.restore(checkpoint.step, tensors["parameters"], tensors["optimizer"])
        self.adapter.parameters_changed()
        if self._method_state is not None:
            self._method_state.restore(checkpoint)
        log.info("going on after step %d from %s", checkpoint.step, checkpoint.path)

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.num_steps

    def _report(self) -> None:
        """Validate and write the line that is due, unless told to stop in mid-validation."""
        if self.counters.due_line is None:
            return
        validation = None
        if self.validates_at(self.counters.step):
            try:
                validation = self._validate()
            except StoppedError:
                return
        learning_rate, grad_norm = self.counters.due_line
        self.counters.due_line = None
        self._write_line(learning_rate, grad_norm, validation)

    def _validate(self) -> float:
        loss = self.validations.measure(self.counters.step)
        self._mark = time.monotonic()  # validation is no training time
        self.counters.last_validation_loss = loss
        if self.validations.stopping.exhausted:
            self.counters.stopped = STOPPED_EARLY
        return loss

    def _write_line(self, learning_rate: float, grad_norm: float, validation: float | None) -> None:
        line = self.counters.line(
            steps_per_epoch=self._steps_per_epoch,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            peak_bytes=peak_bytes(self._ranks.device),
            validation_loss=validation,
        ).to_json()
        if self._method_state is not None:
            line["seconds/training"] = self.counters.line_seconds
            line |= self._method_state.take_line()
        self.counters.begin_line(line["loss"])
        self._reporter.write(line)

    def _count_seconds(self, until: float) -> None:
        self.counters.seconds += until - self._mark
        self.counters.line_seconds += until - self._mark
        self._mark = until

    def _fail(self, batch: StepBatch) -> None:
        log.error("step %d is not finite; replaying its batch to find out where", batch.step + 1)
        self.optimizer.zero_grad()
        where = name_first_non_finite(self.model, self.adapter, batch, seed=self._settings.seed)
        raise step_error(batch, where, self._setup.last_checkpoint())
