"""The state of a run between its steps: counters, validation, metrics, checkpoints."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.adapters.starting import restore_starts
from lorakit.data.examples import ExampleSet
from lorakit.errors import NonFiniteError
from lorakit.files import write_json
from lorakit.optimizers.optimizer import AdamW
from lorakit.progress import bars_are_shown
from lorakit.train.checkpoint import Checkpoint, CheckpointStore
from lorakit.train.choices import Choices
from lorakit.train.early_stopping import EarlyStopping
from lorakit.train.faults import name_first_non_finite
from lorakit.train.interrupts import InterruptionError
from lorakit.train.loggers import Logger, open_loggers
from lorakit.train.losses import ExampleLosses, StoppedError, example_losses
from lorakit.train.memory import peak_bytes
from lorakit.train.metrics import MetricsFile, MetricsLine
from lorakit.train.settings import LoopSettings
from lorakit.train.step import StepResult, compute_device
from lorakit.train.step_log import StepLog
from lorakit.train.watch import judged_at, stalled

CHOICES_NAME = "choices.json"
FINISHED, STOPPED_EARLY = "finished", "early stopping"

log = logging.getLogger(__name__)


@dataclass
class Counters:
    """What a checkpoint keeps besides tensors.

    `weighted_loss`, `weight`, `line_tokens` and `line_seconds` are since the last metrics line;
    `due_line` holds learning rate and gradient norm of a step whose validation a signal cut short.
    """

    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    last_loss: float | None = None
    last_validation_loss: float | None = None
    weighted_loss: float = 0.0
    weight: float = 0.0
    line_tokens: int = 0
    line_seconds: float = 0.0
    due_line: tuple[float, float] | None = None


class MethodState(Protocol):
    """What a method of training keeps beside the weights: saved, restored and told with them."""

    def tensors(self) -> dict[str, Mapping[str, torch.Tensor]]:
        """{group: {name: tensor}} for the checkpoint; groups that no other part of a run has."""

    def to_json(self) -> dict[str, Any]:
        """The rest, for the checkpoint's state."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from what both gave; `checkpoint.state["method"]` is what `to_json` gave."""

    def take_line(self) -> dict[str, float]:
        """What a line of the metrics has besides; counted anew from here on."""

    def look(self, lines: Sequence[Mapping[str, Any]]) -> list[str]:
        """What is to be said, once, of the newest of the lines."""


class Run:
    """A run after its last settled step.

    Args:
        model, adapter, optimizer: what trains.
        settings: how.
        choices: what the engine decided; stored in every checkpoint.
        num_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of one epoch; a policy's may have a fraction.
        validation: held-out examples, or None.
        pad_id: token id for padding.
        writes: whether this process reports: the first of several.
        should_stop: asked during a validation; once true, it is left to the resumed run.
        run_dir, store: where metrics and checkpoints go; None: nothing is written.
        method_state: what the method keeps; None: nothing.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: Attached,
        optimizer: AdamW,
        settings: LoopSettings,
        choices: Choices,
        *,
        num_steps: int,
        steps_per_epoch: float,
        validation: ExampleSet | None,
        pad_id: int,
        writes: bool,
        should_stop: Callable[[], bool],
        run_dir: Path | None,
        store: CheckpointStore | None,
        method_state: MethodState | None = None,
    ) -> None:
        self.counters = Counters()
        self.choices = choices
        self.num_steps = num_steps
        self.lines: list[dict[str, Any]] = []
        self.model = model
        self.adapter = adapter
        self.optimizer = optimizer
        self._settings = settings
        self._steps_per_epoch = steps_per_epoch
        self._validation = validation
        self.pad_id = pad_id
        self._writes = writes
        self._should_stop = should_stop
        self._run_dir = run_dir if writes else None
        self._store = store if writes else None
        self._method_state = method_state
        self._device = compute_device(model)
        self._metrics: MetricsFile | None = None
        self._loggers: Sequence[Logger] = ()
        self.stopping = EarlyStopping(
            settings.early_stopping_patience, settings.early_stopping_threshold
        )
        self._best: dict[str, torch.Tensor] | None = None
        self._mark = 0.0  # when the seconds were last counted
        self._step_log = StepLog(num_steps, has_bar=bars_are_shown())
        self._is_judged = False  # whether it was seen that the loss falls, or does not

    def open(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint, or start: opens the files, and catches up on a validation."""
        if checkpoint is not None:
            self._restore(checkpoint)
        if self._run_dir is not None:
            write_json(self._run_dir / CHOICES_NAME, self.choices.to_json())
            self._metrics = MetricsFile(self._run_dir, last_step=self.counters.step)
            self.lines = self._metrics.lines
        if self._writes:
            self._loggers = open_loggers(
                self._settings.report_to,
                self._run_dir,
                first_step=self.counters.step,
                config=asdict(self._settings),
            )
        self._mark = time.monotonic()
        self._report()

    def close(self) -> None:
        """Close the files."""
        if self._metrics is not None:
            self._metrics.close()
        for logger in self._loggers:
            logger.close()

    def validates_at(self, step: int) -> bool:
        """Whether validation runs once `step` steps are done."""
        every = self._settings.eval_steps or math.ceil(self._steps_per_epoch)
        return self._validation is not None and self._is_due(step, every)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due once `step` steps are done."""
        every = self._settings.save_steps or math.ceil(self._steps_per_epoch)
        return self._store is not None and self._is_due(step, every)

    def pauses_at(self, step: int) -> bool:
        """Whether step `step` must be settled before the next one is queued."""
        return self.validates_at(step) or self.saves_at(step) or step == self.num_steps

    def facts(self) -> str:
        """The last line's reward or loss, and its speed, for the progress bar."""
        if not self.lines:
            return ""
        line = self.lines[-1]
        told = f"reward {line['reward']:.3f}" if "reward" in line else f"loss {line['loss']:.4f}"
        return f"{told} {line['tokens_per_second']:.0f} tokens/s"

    def last_checkpoint(self) -> Path | None:
        """Where the newest checkpoint is; None when there is none."""
        if self._store is None or not self._store.steps():
            return None
        return self._store.path(self._store.steps()[-1])

    def interruption(self, received: signal.Signals | None) -> InterruptionError:
        """What to raise when the run stops for a signal; None: another rank got one."""
        number = received or signal.SIGTERM
        place = self.last_checkpoint()
        saved = "nothing was saved: no run folder was given" if place is None else f"saved {place}"
        return InterruptionError(
            f"stopped by {number.name} after step {self.counters.step} of {self.num_steps}; "
            f"{saved}. Resume the run to go on.",
            number,
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
            self._fail(result)
        counters, batch = self.counters, result.batch
        counters.step += 1
        counters.tokens += batch.num_tokens
        counters.trained_tokens += batch.num_trained_tokens
        counters.line_tokens += batch.num_tokens
        counters.weighted_loss += loss * batch.total_weight
        counters.weight += batch.total_weight
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

    def save(self, *, anew: bool = False) -> None:
        """Write a checkpoint of this very state.

        Args:
            anew: in place of one of the same step, which knows less of what the method keeps;
                else that one stays.
        """
        if self._store is None or (self.counters.step in self._store.steps() and not anew):
            return
        assert self._metrics is not None
        self._metrics.sync()
        tensors: dict[str, Mapping[str, torch.Tensor]] = {
            "parameters": self.optimizer.parameters(),
            "optimizer": self.optimizer.moments(),
        }
        if self._best is not None:
            tensors["best"] = self._best
        starts = self.adapter.kept_starts()
        if starts:
            tensors["starts"] = starts
        state = {
            "counters": asdict(self.counters),
            "early_stopping": asdict(self.stopping),
            "choices": self.choices.to_json(),
        }
        if self._method_state is not None:
            tensors |= self._method_state.tensors()
            state["method"] = self._method_state.to_json()
        path = self._store.save(self.counters.step, tensors, state, anew=anew)
        log.info("saved %s", path)
        self._mark = time.monotonic()

    def finish(self) -> None:
        """Put the best weights back, when early stopping kept them."""
        if self.counters.stopped is None:
            self.counters.stopped = FINISHED
        if self._best is not None:
            self.optimizer.set_parameters(self._best)
            self.adapter.parameters_changed()

    def _restore(self, checkpoint: Checkpoint) -> None:
        state, tensors = checkpoint.state, checkpoint.tensors
        self.counters = Counters(**state["counters"])
        self.stopping = EarlyStopping(**state["early_stopping"])
        # Before the parameters: a kind may set some of its own where it begins.
        restore_starts(self.model, self.adapter, tensors.get("starts", {}))
        self.optimizer.restore(checkpoint.step, tensors["parameters"], tensors["optimizer"])
        self.adapter.parameters_changed()
        if self._method_state is not None:
            self._method_state.restore(checkpoint)
        if "best" in tensors:
            self._best = {name: t.to(self._device) for name, t in tensors["best"].items()}
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
        assert self._validation is not None
        losses = example_losses(
            self.model,
            self._validation,
            token_budget=self.choices.micro_batch_tokens,
            packed=self.choices.packed,
            pad_id=self.pad_id,
            description="validating",
            should_stop=self._should_stop,
        )
        loss = losses.mean
        if not math.isfinite(loss):
            raise self._not_finite_validation(losses)
        self.counters.last_validation_loss = loss
        self._mark = time.monotonic()  # validation is no training time
        improved = self.stopping.update(loss, self.counters.step)
        if self.stopping.patience is not None:
            if improved:
                self._best = {n: t.clone() for n, t in self.optimizer.parameters().items()}
            if self.stopping.exhausted:
                self.counters.stopped = STOPPED_EARLY
        return loss

    def _write_line(self, learning_rate: float, grad_norm: float, validation: float | None) -> None:
        counters = self.counters
        line = MetricsLine(
            step=counters.step,
            epoch=counters.step / self._steps_per_epoch,
            loss=counters.weighted_loss / counters.weight,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=counters.tokens,
            trained_tokens=counters.trained_tokens,
            tokens_per_second=counters.line_tokens / max(counters.line_seconds, 1e-9),
            peak_bytes=peak_bytes(self._device),
            seconds=counters.seconds,
            validation_loss=validation,
        ).to_json()
        if self._method_state is not None:
            line["seconds/training"] = counters.line_seconds
            line |= self._method_state.take_line()
        counters.last_loss = line["loss"]
        counters.weighted_loss, counters.weight = 0.0, 0.0
        counters.line_tokens, counters.line_seconds = 0, 0.0
        if self._metrics is not None:
            self._metrics.append(line)
        self.lines.append(line)
        for logger in self._loggers:
            logger.log(counters.step, {k: v for k, v in line.items() if k != "step"})
        if self._writes:
            self._step_log.tell(line)
            self._watch()

    def _watch(self) -> None:
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

    def _count_seconds(self, until: float) -> None:
        self.counters.seconds += until - self._mark
        self.counters.line_seconds += until - self._mark
        self._mark = until

    def _not_finite_validation(self, losses: ExampleLosses) -> NonFiniteError:
        spoiled = np.flatnonzero(~np.isfinite(losses.nll))
        return NonFiniteError(
            f"the validation after step {self.counters.step} gave a NaN or infinity in "
            f"{len(spoiled)} of {len(losses.nll)} examples, first in validation example "
            f"{spoiled[0]}; {self._last_saved()}. Look at that example, lower learning_rate, or "
            "compute in float32."
        )

    def _last_saved(self) -> str:
        saved = self.last_checkpoint()
        return "there is no checkpoint yet" if saved is None else f"the last checkpoint is {saved}"

    def _fail(self, result: StepResult) -> None:
        step = result.batch.step
        log.error("step %d is not finite; replaying its batch to find out where", step + 1)
        self.optimizer.zero_grad()
        where = name_first_non_finite(
            self.model, self.adapter, result.batch, seed=self._settings.seed
        )
        examples = [int(i) for b in result.batch.micro_batches for i in b.example_ids]
        raise NonFiniteError(
            f"step {step + 1} gave a NaN or infinity, first in {where} ({result.batch.ids_are} "
            f"{examples[:8]}). "
            f"The weights are those after step {step}; {self._last_saved()}. Lower learning_rate, "
            "compute in float32, or look at those examples."
        )
