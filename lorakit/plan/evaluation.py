"""What the final evaluation allocates, counted on a model without data: its own code is run.

Everything is in the mode the evaluation runs in: no gradients, modules as loaded (the engine's fast
ones are in place in training only), layers of one kind stood in for by what the second of them
allocated (see `plan/rehearsal.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.base.eval_mode import eval_mode
from lorakit.base.head import backbone_hidden, logits_fn
from lorakit.engine.activations import decoder_layers
from lorakit.engine.layer_kinds import layer_kind
from lorakit.evaluate.likelihood import token_logprobs
from lorakit.evaluate.token_distributions import NUMBERS, numbers_of
from lorakit.evaluate.worst import LossPass, WorstEvaluation
from lorakit.generate.longest import DENSE, GROWN, longest_passes
from lorakit.plan.heap import Heap
from lorakit.plan.ledger import Ledger
from lorakit.plan.rehearsal import BatchShape, batch_of
from lorakit.plan.stand_ins import Shapes, few_layers, numbered, places_to_run

# As they are collected, put together, and turned into float64 on the host: bytes of each number, on
# a CPU and on a GPU.
COLLECTED_BYTES = {"cpu": 4 + 4 + 8, "cuda": 4 + 4}


@dataclass(frozen=True)
class EvaluationBytes:
    """Bytes of an evaluation beside weights and adapter.

    Attributes:
        losses: the most while losses, sureness and KL were measured.
        choices: while options were scored; 0 where none are.
        answers: while answers were generated; 0 where none are.
        dense_layers: of `answers`, dense weights that are made for them.
        kv_cache: of `answers`, keys and values when all answers are at their end.
        holes: of a CPU's heap, beside the largest of these.
    """

    losses: int
    choices: int
    answers: int
    dense_layers: int
    kv_cache: int
    holes: int

    @property
    def peak(self) -> int:
        """The most at any moment."""
        return max(self.losses, self.choices, self.answers) + self.holes

    def parts(self) -> dict[str, int]:
        """For JSON."""
        return vars(self) | {"peak": self.peak}

    def at_peak(self) -> dict[str, int]:
        """Dense weights and cache, if they are there at the highest moment."""
        if self.answers < max(self.losses, self.choices):
            return {"answer_weights": 0, "kv_cache": 0}
        return {"answer_weights": self.dense_layers, "kv_cache": self.kv_cache}


def rehearse_evaluation(
    model: PreTrainedModel,
    worst: WorstEvaluation,
    *,
    max_new_tokens: int,
    device_type: str,
    granularity: int = 1,
    heap: Heap | None = None,
    kinds: Sequence[int] | None = None,
) -> EvaluationBytes:
    """Go through the worst passes of an evaluation.

    Args:
        model: on the meta device, with its adapter attached; it stays as it is.
        worst: passes.
        max_new_tokens: of an answer.
        device_type: "cpu" or "cuda", what it is a rehearsal for.
        granularity: bytes to which the allocator rounds each request.
        heap: of a CPU, whose holes are told.
        kinds: of the decoder layers; None: they are looked through.
    """
    if kinds is None:
        kinds = numbered(map(layer_kind, decoder_layers(model)))
    counted = _Counted(model, device_type, granularity, kinds)
    losses = choices = 0
    for one in worst.losses:
        losses = max(losses, counted.peak(partial(_measure, model, one, worst.packed)))
    losses = max(losses, len(NUMBERS) * worst.num_scored * COLLECTED_BYTES[device_type])
    if worst.choices:
        first = worst.losses[0]
        choices = counted.peak(partial(_choose, model, first, worst.packed))
    answers, dense, cache = _answers(counted, worst, max_new_tokens)
    holes = 0
    if heap is not None:
        largest = max(losses, choices, answers)
        holes = max(0, max(map(heap.resident_peak, counted.events), default=0) - largest)
    return EvaluationBytes(losses, choices, answers, dense, cache, holes)


class _Counted:
    """Runs passes without data.

    Attributes:
        events: of each pass, see `Ledger`.
    """

    def __init__(
        self, model: PreTrainedModel, device_type: str, granularity: int, kinds: Sequence[int]
    ) -> None:
        self.model = model
        self.events: list[list[tuple[int, int]]] = []
        self._device_type, self._granularity = device_type, granularity
        self._kinds, self._run = kinds, places_to_run(kinds, backward=False)

    def peak(self, run: Callable[[], object]) -> int:
        """The most while `run` ran."""
        with self.ledger() as ledger:
            run()
        return ledger.peak

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Inside, the model's passes are counted."""
        known = [*self.model.parameters(), *self.model.buffers()]
        with (
            kernels.shapes_only(self._device_type),
            eval_mode(self.model),
            torch.no_grad(),
            Ledger(self._granularity, known) as ledger,
            few_layers(decoder_layers(self.model), self._kinds, self._run, ledger),
            Shapes(),
        ):
            yield ledger
        self.events.append(ledger.events)


def _measure(model: PreTrainedModel, one: LossPass, packed: bool) -> None:
    batch = batch_of(BatchShape(one.lengths, one.num_trained, packed))
    numbers_of(model, batch, with_kl=one.with_kl)


def _choose(model: PreTrainedModel, one: LossPass, packed: bool) -> None:
    """Options are taken to be as long as the right answers."""
    batch = batch_of(BatchShape(one.lengths, one.num_trained, packed))
    hidden_TD = backbone_hidden(model, batch)
    token_logprobs(hidden_TD, logits_fn(model), batch.predictor_rows, batch.targets)


def _answers(
    counted: _Counted, worst: WorstEvaluation, max_new_tokens: int
) -> tuple[int, int, int]:
    """The peak of the answers, and of it dense weights, keys and values."""
    if not worst.prompts:
        return 0, 0, 0
    most = dense = cache = 0
    with counted.ledger() as ledger:
        for stage in longest_passes(
            counted.model,
            worst.prompts,
            max_new_tokens,
            max_batch=worst.at_a_time,
            max_dense_bytes=worst.dense_bytes,
            sampled=worst.sampled,
        ):
            if stage == DENSE:
                dense = ledger.live
            if stage == GROWN:  # in one pass, which no evaluation makes
                cache = ledger.live - dense
            else:
                most = max(most, ledger.peak)
            ledger.begin_phase()
    return most, dense, cache
