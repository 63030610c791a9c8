"""Passes of a sample of a model's layers, timed in the mode the loop trains in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
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
from lorakit.train.rates import DECODE_BATCH, Curve, LayerRates
from lorakit.train.timed_shapes import MIN_TOKENS, random_batch, shortened

REPEATS = 3
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
        until: no pass is repeated after this moment of the monotonic clock.
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
        timed(self._batch(first))  # compiles, and fills caches
        speed = timed(self._batch(first)) / work.of_training(first, level).total
        points: dict[float, float] = {}
        shapes = []
        for one in sizes:
            expected = speed * work.of_training(one, level).total
            shape = one
            if expected > self._longest:
                shape = shortened(one, int(one.tokens * self._longest / expected))
            size = work.of_training(shape, level).total
            if size not in points:
                points[size] = self._of_layer(partial(timed, self._batch(shape)))
                shapes.append(shape)
        forward = {
            work.of_forward(shape): self._of_layer(partial(self._forward, self._batch(shape)))
            for shape in shapes
        }
        return (
            LayerRates(
                Curve.through(points),
                Curve.through(forward),
                self._norms(self._batch(shapes[0]), train) if trains else 0.0,
                self._of_layer(partial(self._forward, self._batch(DECODED))),
            ),
            shapes,
        )

    def heads(self, counts: Sequence[int], share: float, *, train: bool = True) -> Curve:
        """Output head and loss of so many positions; `share`: the model's words over the
        sample's."""
        return Curve.through(
            {float(n): share * self._median(partial(self._head, n, train)) for n in set(counts)}
        )

    def _norms(self, batch: MicroBatch, train: Callable[[MicroBatch], float]) -> float:
        """What the first pass of a step takes more than the others, in a layer."""
        again = self._of_layer(partial(train, batch))

        def first() -> float:
            self.adapter.parameters_changed()
            return train(batch)

        return max(0.0, self._of_layer(first) - again)

    def _of_layer(self, timed: Callable[[], float]) -> float:
        return self._median(timed) / self._num_layers

    def _median(self, timed: Callable[[], float]) -> float:
        times = [timed()]
        while len(times) < REPEATS and time.monotonic() < self._until:
            times.append(timed())
        return median(times)

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
