"""Which examples an optimizer step sees, in which micro-batches: a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.data.examples import Example, ExampleSet, MicroBatch
from lorakit.data.pack import collate, epoch_order, packing_of, step_of_epoch
from lorakit.errors import DataError

LossOf = Callable[[PreTrainedModel, int, MicroBatch], torch.Tensor]


@dataclass(frozen=True)
class StepBatch:
    """One rank's part of one optimizer step.

    Attributes:
        step: counted from 0.
        micro_batches: on the CPU; may be empty on a rank of a short last step.
        total_weight: sum of the loss weights over all ranks: what the step's loss is divided by.
        num_tokens: tokens over all ranks, padding not counted.
        num_trained_tokens: trained tokens over all ranks.
        loss_of: (model, place in `micro_batches`, micro-batch on its device) -> 0-d, what the
            micro-batch adds to the loss; None: the weighted NLL of its targets.
        mask_step: the step that dropout masks are made of; None: `step`.
        ids_are: what the `example_ids` of its micro-batches count, for messages.
    """

    step: int
    micro_batches: list[MicroBatch]
    total_weight: float
    num_tokens: int
    num_trained_tokens: int
    loss_of: LossOf | None = None
    mask_step: int | None = None
    ids_are: str = "examples"

    @property
    def masks_of(self) -> int:
        """The step that dropout masks are made of."""
        return self.step if self.mask_step is None else self.mask_step


class StepBatches:
    """The batches of a whole run; `batches[step]` needs nothing but the step.

    A batch takes some 0.4 ms to prepare, however many rows there are, and the loop asks for it
    while the device is at work on the step before: nothing has to be prepared ahead.

    Every epoch has as many steps as the first. With fractional repeats a later one may have a few
    examples more; those that would need another step, at the end of its order, are not seen.

    Args:
        examples: every one with at least one trained token.
        repeats: float64 (number of examples,), how often each is seen per epoch; None: once.
        batch_size: examples per optimizer step over all ranks.
        seed: of the order.
        token_budget: tokens of a micro-batch; a longer example gets one of its own.
        packed: examples share a row, or are padded to one length.
        pad_id: token id for padding.
        rank, world_size: this process, and how many there are.

    Attributes:
        examples, packed, token_budget, rank, world_size: as given.

    Raises:
        DataError: no example, one that trains nothing, or repeats that leave an epoch empty.
    """

    def __init__(
        self,
        examples: ExampleSet,
        repeats: np.ndarray | None = None,
        *,
        batch_size: int,
        seed: int,
        token_budget: int,
        packed: bool,
        pad_id: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_trainable(examples)
        self.examples = examples
        self._repeats = repeats
        self._batch_size = batch_size
        self._seed = seed
        self.token_budget = token_budget
        self.packed = packed
        self._pad_id = pad_id
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0
        self._order = self._order_of(0)
        self.steps_per_epoch = math.ceil(len(self._order) / batch_size)

    def __getitem__(self, step: int) -> StepBatch:
        chosen = self.examples_of(step)
        # All ranks read all of them: so each knows the step's token count without asking.
        examples = {int(i): self.examples[int(i)] for i in chosen}
        weights = (examples[int(i)].loss_weights for i in chosen)
        return StepBatch(
            step=step,
            micro_batches=[
                self._laid_out([examples[i] for i in group], group)
                for group in self.groups_of(step)
            ],
            total_weight=float(sum(one.sum(dtype=np.float64) for one in weights)),
            num_tokens=int(self.examples.lengths[chosen].sum()),
            num_trained_tokens=int(self.examples.trained_lengths[chosen].sum()),
        )

    def groups_of(self, step: int) -> list[list[int]]:
        """The examples of each micro-batch of this rank: known from their lengths alone."""
        mine = self.examples_of(step)[self.rank :: self.world_size]
        groups = packing_of(self.packed)(self.examples.lengths[mine].tolist(), self.token_budget)
        return [[int(mine[i]) for i in group] for group in groups]

    def batch_of(self, step: int, group: Sequence[int]) -> StepBatch:
        """One micro-batch as if it were all of a step."""
        examples = [self.examples[i] for i in group]
        chosen = list(group)
        return StepBatch(
            step=step,
            micro_batches=[self._laid_out(examples, group)],
            total_weight=float(sum(one.loss_weights.sum(dtype=np.float64) for one in examples)),
            num_tokens=int(self.examples.lengths[chosen].sum()),
            num_trained_tokens=int(self.examples.trained_lengths[chosen].sum()),
        )

    def _laid_out(self, examples: Sequence[Example], group: Sequence[int]) -> MicroBatch:
        return collate(examples, group, packed=self.packed, pad_id=self._pad_id)

    def examples_of(self, step: int) -> np.ndarray:
        """int64, the examples of one step over all ranks, in order."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        return step_of_epoch(self._order_in(epoch), step_in_epoch, self._batch_size)

    def blocks_of(self, steps: range) -> Iterator[np.ndarray]:
        """The examples of many steps over all ranks: int64 (steps, examples of a step), one block
        an epoch; a short last step of an epoch is a block of its own."""
        start, size = steps.start, self._batch_size
        while start < steps.stop:
            epoch, first = divmod(start, self.steps_per_epoch)
            stop = min(steps.stop, (epoch + 1) * self.steps_per_epoch)
            rows = self._order_in(epoch)[first * size : (first + stop - start) * size]
            whole = len(rows) // size * size
            if whole:
                yield rows[:whole].reshape(-1, size)
            if whole < len(rows):
                yield rows[whole:][None]
            start = stop

    def count_steps(self, num_epochs: float, max_steps: int | None) -> int:
        """Optimizer steps of the whole run: `max_steps`, or the epochs' rounded up."""
        if max_steps is not None:
            return max_steps
        return math.ceil(num_epochs * self.steps_per_epoch)

    def _order_in(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        return self._order

    def _order_of(self, epoch: int) -> np.ndarray:
        return epoch_order(len(self.examples), self._repeats, self._seed, epoch)


def check_trainable(examples: ExampleSet) -> None:
    """Refuse an empty set and examples that train nothing.

    Raises:
        DataError: naming the first of them.
    """
    if len(examples) == 0:
        raise DataError("there is no example to train on; give at least one row with an answer.")
    untrained = np.flatnonzero(np.asarray(examples.trained_lengths) == 0)
    if len(untrained):
        listed = ", ".join(map(str, untrained[:5]))
        raise DataError(
            f"{len(untrained)} examples have no trained token (the first: {listed}); every example "
            "needs one. Leave them out, or change what `trained` selects."
        )


def row_keys(batch: MicroBatch, seed: int, step: int) -> torch.Tensor:
    """A key per token from (seed, step, example, position), for the dropout masks.

    Args:
        batch: packed or padded; padding gets keys too, which nothing looks at. A shared prompt has
            the keys of the first example that begins with it: share where nothing is dropped.

    Returns:
        int64 (rows,), `batch.input_ids` flattened row by row.
    """
    if batch.cu_seqlens is None:
        examples = batch.example_ids[:, None].expand_as(batch.position_ids).flatten()
    elif batch.shared is not None:
        owners, lengths = torch.tensor(batch.shared.owners), torch.tensor(batch.shared.lengths)
        places = owners.repeat_interleave(lengths).to(batch.example_ids.device)
        examples = batch.example_ids[places]
    else:
        lengths = batch.cu_seqlens.diff().long()
        # The length is known, and saying it spares the device a wait.
        examples = batch.example_ids.repeat_interleave(lengths, output_size=batch.input_ids.numel())
    return kernels.mix_keys(seed, step, examples, batch.position_ids.flatten())
