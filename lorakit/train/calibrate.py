"""A few seconds of the real step's parts, timed: what `lorakit plan` predicts a run's time from.

Of each kind of layer one or two are built from the model's config with random weights, with the
adapter that is attached to the model, in the mode the loop trains in, and timed on micro-batches as
long as those of the run. So no weight of the base is needed, and a base of many layers takes no
longer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached
from lorakit.base.dtypes import compute_dtype
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.load_time import packed_weights
from lorakit.engine.activations import decoder_layers
from lorakit.engine.dense_copies import dense_copies
from lorakit.engine.layer_kinds import places_by_kind
from lorakit.engine.model_flops import LayerWork, ModelFlops
from lorakit.engine.passes import Pass
from lorakit.engine.recompute import Level, RecomputePolicy
from lorakit.engine.sample import attach_like, can_choose, sample_model
from lorakit.train.choices import Division
from lorakit.train.modes import training_mode
from lorakit.train.pass_timer import PassTimer
from lorakit.train.rates import DECODE_BATCH, Curve, LayerRates, Rates
from lorakit.train.settings import LoopSettings
from lorakit.train.step_timer import time_updates
from lorakit.train.timed_shapes import chosen_sizes

# Enough that the head's time is that of a wide product; more words take more time in proportion.
MAX_WORDS = 16_384
# Of a kind: what a pass takes beside its layers is then shared by two.
LAYERS = 2
# Of rarer kinds the times of the likest one are taken.
MAX_KINDS = 6
# Seconds that one timed pass may take, and all of them about: three rounds of three sizes, forward
# and backward, forward alone and with norms, fit in; on a machine that is busy they take longer.
LONGEST_PASS = 0.5
SECONDS = 6.0
# Of a sample: more would be felt on a machine that only plans.
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class _Kind:
    """Layers that are alike: their places in the model, and what one of them computes."""

    places: list[int]
    work: LayerWork


@dataclass
class _Timed:
    """What was timed of all kinds so far.

    Attributes:
        head, head_forward, decode_head: of the first kind's sample, whose head is the model's.
        updates: (trained parameters, seconds of an update, of a checkpoint) of the sample that
            trains the most.
        disturbed: whether timings of one thing did not agree.
    """

    layers: list[LayerRates] = field(default_factory=list)
    heads: tuple[Curve, Curve, float] | None = None
    updates: tuple[int, float, float] = (0, 0.0, 0.0)
    disturbed: bool = False


def calibrate(
    whole: PreTrainedModel,
    adapter: Attached,
    flops: ModelFlops,
    settings: LoopSettings,
    division: Division,
    passes: Sequence[Pass],
    *,
    device: torch.device,
    seconds: float = SECONDS,
) -> Rates | str:
    """Time the parts of the step on this machine.

    Args:
        whole: the model, on the meta device or loaded; its config and storage are looked at.
        adapter: attached to it, new or saved; what it starts from makes no difference.
        flops: of both.
        settings, division: of the run.
        passes: micro-batches of the run, of which some are imitated.
        device: that trains.
        seconds: to take about so long at most, on a machine that does nothing else.

    Returns:
        The rates; or in words, why there are none.
    """
    began = time.monotonic()
    total = _num_layers(whole)
    kinds = _kinds(whole, flops)
    timed_kinds = sorted(kinds, key=lambda kind: -len(kind.places))[:MAX_KINDS]
    needed = max(_sample_bytes(whole, kind, 1) for kind in timed_kinds)
    if needed > MAX_BYTES:
        return (
            f"not known: one of its layers takes {needed / 2**30:.1f} GiB, too much to be timed "
            "beside a plan; name a GPU (--gpu)"
        )
    samples = _Samples(whole, adapter, settings, division, chosen_sizes(passes), device)
    timed, num_layers = _Timed(), 0
    for number, kind in enumerate(timed_kinds, 1):
        places = _sampled(whole, kind, total)
        num_layers += len(places)
        until = began + seconds * number / len(timed_kinds)
        longest = LONGEST_PASS / len(timed_kinds)
        samples.time_kind(kind, places, timed, longest=longest, until=until)
    assert timed.heads is not None
    head, head_forward, decode_head = timed.heads
    trained, update, checkpoint = timed.updates
    ratio = adapter.trainable / trained if trained else 0.0
    kind_of = {
        place: timed_kinds.index(_likest(kind, timed_kinds))
        for kind in kinds
        for place in kind.places
    }
    took = time.monotonic() - began
    of_kinds = f" of {len(timed_kinds)} kinds" if len(timed_kinds) > 1 else ""
    return Rates(
        kinds=tuple(timed.layers),
        kind_of=tuple(kind_of[place] for place in range(len(flops.layers))),
        head=head,
        head_forward=head_forward,
        update=update * ratio,
        checkpoint=checkpoint * ratio,
        decode_head=decode_head,
        policy=division.recompute_policy,
        how=f"timed on this machine in {took:.1f} s, on {num_layers}{of_kinds} of {total} layers",
        disturbed=timed.disturbed,
    )


def _kinds(whole: PreTrainedModel, flops: ModelFlops) -> list[_Kind]:
    """The kinds of layers; below the first that trains, nothing has a gradient."""
    found: list[_Kind] = []
    apart = can_choose(whole)
    alike = list(range(len(flops.layers)))
    for places in places_by_kind(whole, with_ranks=False) if apart else [alike]:
        for trains in (False, True):
            some = [place for place in places if (flops.layers[place].backward > 0) == trains]
            if some:
                # The last one: the first of a model is given nothing that needs a gradient.
                found.append(_Kind(some, flops.layers[some[-1]]))
    return found


def _likest(kind: _Kind, others: Sequence[_Kind]) -> _Kind:
    """The kind itself; or of those that were timed the one that computes the most alike."""
    if kind in others:
        return kind
    return min(others, key=lambda other: abs(other.work.forward - kind.work.forward))


def _sampled(whole: PreTrainedModel, kind: _Kind, total: int) -> list[int]:
    """The places of the layers of a kind that are built."""
    places = kind.places if can_choose(whole) else list(range(total))
    count = min(LAYERS, len(places))
    while count > 1 and _sample_bytes(whole, kind, count) > MAX_BYTES:
        count -= 1
    return places[:count]


def _sample_bytes(whole: PreTrainedModel, kind: _Kind, count: int) -> int:
    """What a sample of so many layers takes before it is packed, its words included."""
    config = whole.config.get_text_config()
    layers = decoder_layers(whole)
    share = 1.0 if layers else 1 / _num_layers(whole)
    layer = layers[kind.places[0]] if layers else whole.base_model
    numbers = sum(
        module.stored.shape.numel()
        for module in layer.modules()
        if isinstance(module, FrozenLinear | FrozenExperts)
    )
    words = 2 * min(config.vocab_size, MAX_WORDS) * config.hidden_size
    return int((count * share * numbers + words) * compute_dtype(whole).itemsize)


@dataclass(frozen=True)
class _Samples:
    """What all samples have in common; see `calibrate`."""

    whole: PreTrainedModel
    adapter: Attached
    settings: LoopSettings
    division: Division
    sizes: Sequence[Pass]
    device: torch.device

    def time_kind(
        self, kind: _Kind, places: Sequence[int], timed: _Timed, *, longest: float, until: float
    ) -> None:
        """Add to `timed` what layers of one kind take."""
        whole, dtype = self.whole, compute_dtype(self.whole)
        # What "auto" makes again depends on the whole model; its price is counted in operations.
        asked = self.division.recompute
        level: Level = "none" if asked == "auto" else asked  # type: ignore[assignment]
        with ExitStack() as stack:
            # What is drawn here changes nothing that is drawn later.
            devices = [self.device] if self.device.type == "cuda" else []
            stack.enter_context(torch.random.fork_rng(devices))
            if self.settings.kernels == kernels.REFERENCE:
                stack.enter_context(kernels.reference_only())
            sample = sample_model(
                whole.config,
                places,
                vocab_size=MAX_WORDS,
                like=next(iter(packed_weights(whole)), None),
                dtype=dtype,
                device=self.device,
            )
            attached = attach_like(sample, whole, self.adapter, places)
            if self.division.dense_copies:
                stack.enter_context(dense_copies(sample, dtype))
            mode = training_mode(sample, attached, RecomputePolicy(level))
            recompute = stack.enter_context(mode)
            # Of a family without layers the whole backbone is one, of which these are a share.
            share = 1.0 if decoder_layers(whole) else 1 / _num_layers(whole)
            timer = PassTimer(
                sample,
                attached,
                packed=self.division.packed,
                device=self.device,
                num_layers=len(places) * share,
                longest=longest,
                until=until,
            )
            rates, shapes = timer.layers(self.sizes, kind.work, recompute, level)
            timed.layers.append(rates)
            if timed.heads is None:
                timed.heads = self._heads(timer, shapes, _words(whole) / _words(sample))
            if attached.trainable > timed.updates[0]:
                update, checkpoint, disturbed = time_updates(
                    sample, attached, self.settings, self.device
                )
                timed.updates = (attached.trainable, update, checkpoint)
                timed.disturbed |= disturbed
            timed.disturbed |= timer.disturbed

    def _heads(
        self, timer: PassTimer, shapes: Sequence[Pass], share: float
    ) -> tuple[Curve, Curve, float]:
        counts = [max(1, shape.trained) for shape in shapes]
        decoding = timer.heads([DECODE_BATCH], share, train=False)
        return (
            timer.heads(counts, share),
            timer.heads(counts[:1], share, train=False),
            decoding.at(DECODE_BATCH),
        )


def _num_layers(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def _words(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().vocab_size)
