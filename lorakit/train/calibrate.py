"""A few seconds of the real step's parts, timed: what `lorakit plan` predicts a run's time from.

Timed on a layer or two of the model, built from its config with random weights, in the mode the
loop trains in, on micro-batches as long as those of the run. So no weight of the base is needed,
and a base of many layers takes no longer.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached, attach_adapter
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.head import backbone_hidden, head_parameters, logits_fn
from lorakit.base.packed import PackedWeight
from lorakit.base.sample import sample_config, sample_model
from lorakit.data.examples import Example, MicroBatch
from lorakit.data.pack import collate
from lorakit.engine.dense_copies import dense_copies
from lorakit.engine.model_flops import ModelFlops, count_flops
from lorakit.engine.passes import Pass
from lorakit.engine.recompute import Recompute, RecomputePolicy
from lorakit.errors import AdapterError
from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import state_plan_of
from lorakit.recipe import LoraConfig
from lorakit.train.batches import row_keys
from lorakit.train.checkpoint import CheckpointStore
from lorakit.train.choices import Division
from lorakit.train.modes import compute_dtype, training_mode
from lorakit.train.rates import DECODE_BATCH, Curve, Rates
from lorakit.train.settings import LoopSettings

# Enough that the head's time is that of a wide product; more words take more time in proportion.
MAX_WORDS = 16_384
LAYERS = 2
REPEATS = 3
# Seconds that one timed pass may take: longer micro-batches are timed on shorter ones.
LONGEST_PASS = 1.5
SECONDS = 6.0
# Of a sample: more would be felt on a machine that only plans.
MAX_BYTES = 1 << 30
MIN_TOKENS = 32

log = logging.getLogger(__name__)


def calibrate(
    whole: PreTrainedModel,
    adapter: LoraConfig,
    settings: LoopSettings,
    division: Division,
    passes: Sequence[Pass],
    *,
    device: torch.device,
    trainable: int,
    seconds: float = SECONDS,
) -> Rates | str:
    """Time the parts of the step on this machine.

    Args:
        whole: the model, on the meta device or loaded; its config and storage are looked at.
        adapter: as it will train; what it starts from makes no difference.
        settings, division: of the run.
        passes: micro-batches of the run, of which some are imitated.
        device: that trains.
        trainable: parameters of the whole adapter.
        seconds: to take about so long at most.

    Returns:
        The rates; or in words, why there are none.
    """
    began = time.monotonic()
    config, dtype = whole.config, compute_dtype(whole)
    total = config.get_text_config().num_hidden_layers
    num_layers = min(LAYERS, total)
    needed = _sample_bytes(whole, num_layers, dtype)
    if needed > MAX_BYTES:
        return (
            f"not known: {num_layers} of its layers take {needed / 2**30:.1f} GiB, too much to "
            "be timed beside a plan; name a GPU (--gpu)"
        )
    with ExitStack() as stack:
        # What is drawn here changes nothing that is drawn later.
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if settings.kernels == kernels.REFERENCE:
            stack.enter_context(kernels.reference_only())
        model = sample_model(
            sample_config(config, num_layers, MAX_WORDS),
            like=_packed_like(whole),
            dtype=dtype,
            device=device,
        )
        load = time.monotonic() - began
        try:
            attached = attach_adapter(model, _plain_start(adapter), seed=0)
        except AdapterError as error:  # it names layers further up
            return f"not known: the adapter does not fit the first layers alone ({error})"
        if division.dense_copies:
            stack.enter_context(dense_copies(model, dtype))
        # What "auto" makes again depends on the whole model; its price is counted in operations.
        level = "none" if division.recompute == "auto" else division.recompute
        policy = RecomputePolicy(level)  # type: ignore[arg-type]
        recompute = stack.enter_context(training_mode(model, attached, policy))
        flops = count_flops(model, attached, dtype.itemsize)
        timer = _Timer(model, attached, division.packed, device, began + seconds)
        layer, shapes = timer.layers(_sizes(passes), flops, recompute, policy)
        share = _words(config) / _words(model.config)
        more = total / num_layers
        update, checkpoint = _optimizer_times(model, attached, settings, device)
        ratio = trainable / max(1, attached.trainable)
        rates = Rates(
            layer=layer,
            head=timer.heads(shapes, share),
            layer_forward=timer.layers_forward(shapes, flops),
            head_forward=timer.heads(shapes[:1], share, train=False),
            step=update * ratio + timer.norms(shapes[0], flops, recompute) * more,
            checkpoint=checkpoint * ratio,
            load=load * more,
            decode=timer.decode(more, share),
            decode_batch=DECODE_BATCH,
            policy=division.recompute_policy,
            how="",
        )
    took = time.monotonic() - began
    how = f"timed on this machine in {took:.1f} s, on {num_layers} of {total} layers"
    return replace(rates, how=how)


def _words(config: PreTrainedConfig) -> int:
    return int(config.get_text_config().vocab_size)


def _packed_like(model: PreTrainedModel) -> Any:
    """The packed weight that most bytes are kept as; None: they are dense."""
    found = [
        module.stored
        for module in model.modules()
        if isinstance(module, FrozenLinear | FrozenExperts)
        and isinstance(module.stored, PackedWeight)
    ]
    return max(found, key=lambda stored: stored.shape.numel(), default=None)


def _sample_bytes(model: PreTrainedModel, num_layers: int, dtype: torch.dtype) -> int:
    """What a sample takes before it is packed: layers, and a part of the words."""
    shapes = [
        module.stored.shape
        for module in model.modules()
        if isinstance(module, FrozenLinear | FrozenExperts)
    ]
    layers = sum(shape.numel() for shape in shapes)
    config = model.config.get_text_config()
    words = 2 * min(config.vocab_size, MAX_WORDS) * config.hidden_size
    return int((layers * num_layers / config.num_hidden_layers + words) * dtype.itemsize)


def _plain_start(adapter: LoraConfig) -> LoraConfig:
    return adapter.model_copy(
        update={"init_lora_weights": True, "trainable_token_indices": None, "path": None}
    )


def _sizes(passes: Sequence[Pass]) -> list[Pass]:
    """A short, a middling and a long micro-batch, by the tokens that lie in them."""
    by_size = sorted(passes, key=lambda one: one.tokens)
    behind = np.cumsum([one.tokens for one in by_size])
    places = np.searchsorted(behind, behind[-1] * np.array([0.1, 0.5, 0.9]))
    chosen = {by_size[i].tokens: by_size[i] for i in np.minimum(places, len(by_size) - 1)}
    return [chosen[tokens] for tokens in sorted(chosen)]


class _Timer:
    """Times passes of the sample.

    Args:
        until: no pass is repeated after this moment.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: Attached,
        packed: bool,
        device: torch.device,
        until: float,
    ) -> None:
        self.model, self.adapter, self.device = model, adapter, device
        self.packed, self.until = packed, until
        self._generator = np.random.default_rng(0)

    def layers(
        self,
        sizes: Sequence[Pass],
        flops: ModelFlops,
        recompute: Recompute,
        policy: RecomputePolicy,
    ) -> tuple[Curve, list[Pass]]:
        """Forward and backward through the layers; and the passes that were timed."""
        first = _shortened(sizes[0], MIN_TOKENS * 4)
        self._layers(first, recompute)  # compiles, and fills caches
        speed = self._layers(first, recompute) / flops.layers(first, policy).total
        points: dict[float, float] = {}
        shapes = []
        for one in sizes:
            expected = speed * flops.layers(one, policy).total
            shape = one
            if expected > LONGEST_PASS:
                shape = _shortened(one, int(one.tokens * LONGEST_PASS / expected))
            size = flops.layers(shape, policy).total / flops.num_layers
            if size in points:
                continue
            points[size] = self._median(partial(self._layers, shape, recompute)) / flops.num_layers
            shapes.append(shape)
        return _curve(points), shapes

    def layers_forward(self, shapes: Sequence[Pass], flops: ModelFlops) -> Curve:
        """Forward alone."""
        points = {}
        for shape in shapes:
            batch = self._batch(shape)
            points[flops.forward_layers(shape) / flops.num_layers] = (
                self._median(partial(self._forward, batch)) / flops.num_layers
            )
        return _curve(points)

    def heads(self, shapes: Sequence[Pass], share: float, *, train: bool = True) -> Curve:
        """Output head and loss; `share`: the model's words over the sample's."""
        points = {}
        for count in {max(1, shape.trained) for shape in shapes}:
            points[float(count)] = share * self._median(partial(self._head, count, train))
        return _curve(points)

    def norms(self, shape: Pass, flops: ModelFlops, recompute: Recompute) -> float:
        """What the first pass of a step takes more than the others."""
        if flops.step == 0:
            return 0.0
        again = self._median(partial(self._layers, shape, recompute))

        def first() -> float:
            self.adapter.parameters_changed()
            return self._layers(shape, recompute)

        return max(0.0, self._median(first) - again)

    def decode(self, layers: float, share: float) -> float:
        """One token each for `DECODE_BATCH` answers, through all layers and the head."""
        shape = Pass(DECODE_BATCH, DECODE_BATCH, (1,) * DECODE_BATCH)
        batch = self._batch(shape)
        head = self._median(partial(self._head, DECODE_BATCH, False))
        return layers * self._median(partial(self._forward, batch)) + share * head

    def _median(self, timed: Callable[[], float]) -> float:
        times = [timed()]
        while len(times) < REPEATS and time.monotonic() < self.until:
            times.append(timed())
        return median(times)

    def _layers(self, shape: Pass, recompute: Recompute) -> float:
        batch = self._batch(shape)
        recompute.prepare(batch.input_ids.numel())
        with self._clock() as clock:
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
        """A micro-batch of this shape with random words."""
        words = self.model.config.get_text_config().vocab_size
        left = min(shape.trained, sum(n - 1 for n in shape.lengths))
        examples = []
        for place, length in enumerate(shape.lengths):
            trained = min(length - 1, -(-left // (len(shape.lengths) - place)))
            left -= trained
            weights = np.zeros(length, dtype=np.float32)
            weights[length - trained :] = 1 if trained else 0
            ids = self._generator.integers(words, size=length, dtype=np.int32)
            examples.append(Example(ids, weights))
        made = collate(examples, range(len(examples)), packed=self.packed, pad_id=0)
        return made.to(self.device)


def _shortened(shape: Pass, tokens: int) -> Pass:
    """The same mixture of lengths with about so many tokens."""
    if shape.tokens <= max(tokens, MIN_TOKENS):
        return shape
    share = max(tokens, MIN_TOKENS) / shape.tokens
    lengths: list[int] = []
    for length in shape.lengths:
        if sum(lengths) + length > share * shape.tokens:
            break
        lengths.append(length)
    lengths = lengths or [int(share * shape.tokens)]
    return Pass(
        sum(lengths), max(1, int(shape.trained * sum(lengths) / shape.tokens)), tuple(lengths)
    )


def _curve(points: dict[float, float]) -> Curve:
    sizes = tuple(sorted(points))
    return Curve(sizes, tuple(points[size] for size in sizes))


def _optimizer_times(
    model: PreTrainedModel, adapter: Attached, settings: LoopSettings, device: torch.device
) -> tuple[float, float]:
    """Seconds of an update, and of a checkpoint."""
    state = state_plan_of(model, adapter.parameters(), settings, device.type)
    optimizer = AdamW(
        adapter.parameters(),
        state,
        rule=AdamWRule(
            betas=(settings.adam_beta1, settings.adam_beta2),
            epsilon=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
        ),
    )
    try:
        times = []
        for _ in range(REPEATS + 1):
            optimizer.zero_grad()
            began = time.perf_counter()
            flags = optimizer.step(
                1e-6,
                torch.zeros((), device=device),
                divisor=1.0,
                max_grad_norm=settings.max_grad_norm,
            )
            bool(flags.finite)  # waits for the device
            times.append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory(prefix="lorakit-") as folder:
            store = CheckpointStore(Path(folder), {}, keep=2)
            store.open()
            began = time.perf_counter()
            groups = {"parameters": optimizer.parameters(), "optimizer": optimizer.moments()}
            store.save(1, groups, {})
            checkpoint = time.perf_counter() - began
    finally:
        optimizer.release()
    return median(times[1:]), checkpoint
