"""Passes of a sample of a model's layers, timed in the mode the loop trains in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached
from lorakit.base.dtypes import compute_dtype
from lorakit.base.head import backbone_hidden, head_parameters, logits_fn
from lorakit.data.examples import MicroBatch
from lorakit.engine.model_flops import LayerWork
from lorakit.engine.passes import Pass
from lorakit.engine.recompute import Level, Recompute
from lorakit.train.batches import row_keys
from lorakit.train.least_times import MIN_ROUNDS, Key, in_turns, were_disturbed
from lorakit.train.rates import DECODE_BATCH, Curve, LayerRates
from lorakit.train.timed_shapes import MIN_TOKENS, random_batch, shortened

DECODED = Pass(DECODE_BATCH, DECODE_BATCH, (1,) * DECODE_BATCH)


class PassTimer:
    """Times passes of a sample.

    Args:
        model: layers of one kind, with their adapter, in training mode.
        adapter: of the model.
        packed: whether examples share a row.
        device: that computes.
        num_layers: how many of what `LayerWork` is of the model has.
        longest: seconds that one timed pass may take: longer micro-batches are timed on shorter
            ones.
        until: after this moment of the monotonic clock no pass is repeated more than it must be.

    Attributes:
        disturbed: whether timings of one pass did not agree so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: Attached,
        *,
        packed: bool,
        device: torch.device,
        num_layers: float,
        longest: float,
        until: float,
    ) -> None:
        self.model, self.adapter, self.device = model, adapter, device
        self._packed, self._num_layers = packed, num_layers
        self._longest, self._until = longest, until
        self.disturbed = False
        self._generator = np.random.default_rng(0)

    def layers(
        self, sizes: Sequence[Pass], work: LayerWork, recompute: Recompute, level: Level
    ) -> tuple[LayerRates, list[Pass]]:
        """What one of the layers takes; and the passes that were timed.

        Args:
            sizes: passes of the run.
            work: of one layer in the whole model.
            level: at which `recompute` stands.
        """
        trains = work.backward > 0
        train = partial(self._train, recompute=recompute)
        timed = train if trains else self._forward
        first = shortened(sizes[0], MIN_TOKENS * 4)
        small = partial(timed, self._batch(first))
        small()  # compiles, and fills caches
        speed = min(small() for _ in range(MIN_ROUNDS)) / work.of_training(first, level).total
        shapes: dict[float, Pass] = {}
        for one in sizes:
            expected = speed * work.of_training(one, level).total
            shape = one
            if expected > self._longest:
                shape = shortened(one, int(one.tokens * self._longest / expected))
            shapes.setdefault(work.of_training(shape, level).total, shape)
        batches = {size: self._batch(shape) for size, shape in shapes.items()}
        smallest = min(batches)
        pieces: dict[tuple[str, float], Callable[[], float]] = {}
        for size, batch in batches.items():
            pieces["train", size] = partial(timed, batch)
            pieces["forward", work.of_forward(shapes[size])] = partial(self._forward, batch)
        if trains:
            pieces["norms", smallest] = partial(self._first, batches[smallest], train)
        pieces["decode", DECODE_BATCH] = partial(self._forward, self._batch(DECODED))
        least = {key: took / self._num_layers for key, took in self._least(pieces).items()}
        again = least["train", smallest]
        rates = LayerRates(
            Curve.through({size: took for (of, size), took in least.items() if of == "train"}),
            Curve.through({size: took for (of, size), took in least.items() if of == "forward"}),
            # What the first pass of a step takes more than the others.
            max(0.0, least["norms", smallest] - again) if trains else 0.0,
            least["decode", DECODE_BATCH],
        )
        return rates, list(shapes.values())

    def heads(self, counts: Sequence[int], share: float, *, train: bool = True) -> Curve:
        """Output head and loss of so many positions; `share`: the model's words over the
        sample's."""
        pieces = {float(n): partial(self._head, n, train) for n in counts}
        return Curve.through({n: share * took for n, took in self._least(pieces).items()})

    def _least(self, pieces: Mapping[Key, Callable[[], float]]) -> dict[Key, float]:
        times = in_turns(pieces, until=self._until)
        self.disturbed |= any(were_disturbed(took) for took in times.values())
        return {key: min(took) for key, took in times.items()}

    def _first(self, batch: MicroBatch, train: Callable[[MicroBatch], float]) -> float:
        self.adapter.parameters_changed()
        return train(batch)

    def _train(self, batch: MicroBatch, *, recompute: Recompute) -> float:
        recompute.prepare(batch.input_ids.numel())
        with _inputs_train(self.model), self._clock() as clock:
            self.adapter.dropout.rows = row_keys(batch, 0, 0)
            hidden = backbone_hidden(self.model, batch)[batch.predictor_rows]
            hidden.backward(torch.ones_like(hidden))
        self.adapter.dropout.rows = None
        return clock[0]

    def _forward(self, batch: MicroBatch) -> float:
        with torch.no_grad(), self._clock() as clock:
            backbone_hidden(self.model, batch)
        return clock[0]

    def _head(self, count: int, train: bool) -> float:
        config = self.model.config.get_text_config()
        dtype = compute_dtype(self.model)
        hidden = torch.randn(count, config.hidden_size, dtype=dtype, device=self.device)
        targets = torch.randint(config.vocab_size, (count,), device=self.device)
        weights = torch.ones(count, device=self.device)
        with torch.set_grad_enabled(train), self._clock() as clock:
            loss, _ = kernels.linear_cross_entropy(
                hidden.requires_grad_(train),
                logits_fn(self.model),
                targets,
                weights,
                parameters=head_parameters(self.model),
            )
            if train:
                loss.backward()
        return clock[0]

    @contextmanager
    def _clock(self) -> Iterator[list[float]]:
        seconds: list[float] = []
        self._wait()
        began = time.perf_counter()
        yield seconds
        self._wait()
        seconds.append(time.perf_counter() - began)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _batch(self, shape: Pass) -> MicroBatch:
        words = self.model.config.get_text_config().vocab_size
        made = random_batch(shape, self._generator, num_words=words, packed=self._packed)
        return made.to(self.device)


@contextmanager
def _inputs_train(model: PreTrainedModel) -> Iterator[None]:
    """Inside, what the first layer is given needs a gradient, as in the middle of a model."""

    def require(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        output.requires_grad_()

    hook = model.get_input_embeddings().register_forward_hook(require)
    try:
        yield
    finally:
        hook.remove()
