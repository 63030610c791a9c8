"""What the engine decides where the recipe leaves it open: decided once, logged, stored, replayed.

Other micro-batches, recompute or threads add floats in another order, so a resumed run must use the
very choices it was started with, or be refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.base.dtypes import compute_dtype
from lorakit.base.families import why_not_packed
from lorakit.engine.activations import LayerBytes, layer_bytes
from lorakit.engine.dense_copies import dense_copy_bytes
from lorakit.engine.fuse import fused_modules
from lorakit.engine.recompute import RecomputePolicy
from lorakit.errors import CheckpointError
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.recipe.sections.train import FORWARD_TOKENS
from lorakit.train.settings import LoopSettings

# Above this many tokens per forward pass, matrix products no longer get faster per token: on a CPU
# early, on a GPU late.
MAX_TOKENS = {"cpu": FORWARD_TOKENS, "cuda": 16384}
MIN_TOKENS = 512

# Share of the free memory that dense copies of packed weights may take: whoever quantizes wants the
# memory, so they are kept only where nobody would notice. They save two passes over the weights per
# micro-batch, the less of its time the more tokens it has.
DENSE_SHARE = 0.01

# Share of the free memory that activations may take by the estimate below; the rest is for what it
# leaves out (attention, the logits of a chunk, dequantized weights) and for fragmentation.
ACTIVATION_SHARE = 0.5

AUTO = "auto"
LEVELS = {True: "full", False: "none"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completing:
    """What a run generates itself.

    Attributes:
        max_batch: completions at a time that were asked for; None: as many as fit.
        longest_prompt: its tokens.
        max_new_tokens: of a completion.
    """

    max_batch: int | None
    longest_prompt: int
    max_new_tokens: int


@dataclass(frozen=True)
class Choices:
    """One value per decision.

    Attributes:
        micro_batch_tokens: token budget of a forward pass.
        recompute: level of gradient checkpointing, or "auto": by `activation_bytes`.
        activation_bytes: that one micro-batch may keep for the backward pass; None: as it comes.
        packed: whether examples share a row; otherwise they are padded.
        device: what computes: the GPU's name, or the CPU's instruction set.
        dtype: that the base computes in.
        num_threads: of the CPU; None where it does not matter.
        kernels: which implementation of the ops (see `kernels.backend_name`).
        dense_copies: whether packed weights are kept unpacked too, for the whole run.
        completions_at_a_time: that are generated together; None: the run generates nothing itself.
        dense_bytes: that dense weights may take meanwhile; see `AnswerRoom`.
    """

    micro_batch_tokens: int
    recompute: str
    activation_bytes: int | None
    packed: bool
    device: str
    dtype: str
    num_threads: int | None
    kernels: str = kernels.REFERENCE  # what runs from before there was another one computed with
    dense_copies: bool = False
    completions_at_a_time: int | None = None
    dense_bytes: int | None = None

    def describe(self) -> str:
        """One line for people."""
        laid_out = "packed" if self.packed else "padded"
        count = self.num_threads
        threads = "" if count is None else f"; {count} CPU thread{'s' * (count != 1)}"
        at_a_time = self.completions_at_a_time
        completions = "" if at_a_time is None else f"; up to {at_a_time} completions at a time"
        return (
            f"micro-batches of up to {self.micro_batch_tokens} tokens, {laid_out}; "
            f"{self.recompute_policy.describe()}{threads}; {self.dtype.removeprefix('torch.')}; "
            f"{self.kernels} kernels{'; dense copies of packed weights' * self.dense_copies}"
            f"{completions}"
        )

    @property
    def recompute_policy(self) -> RecomputePolicy:
        """For `training_mode`."""
        return RecomputePolicy(self.recompute, self.activation_bytes)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """For choices.json and the checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, recorded: dict[str, Any]) -> Choices:
        """What `to_json` gave, in this version or an earlier one, which knew two levels."""
        values = dict(recorded)
        if "gradient_checkpointing" in values:
            values["recompute"] = LEVELS[values.pop("gradient_checkpointing")]
            values["activation_bytes"] = None
        return cls(**values)


@dataclass(frozen=True)
class Division:
    """How a step is divided: the part of the choices that follows from sizes alone, so that a plan
    can make it for a machine that is not there. See `Choices`."""

    micro_batch_tokens: int
    recompute: str
    activation_bytes: int | None
    packed: bool
    dense_copies: bool

    @property
    def recompute_policy(self) -> RecomputePolicy:
        """For `training_mode`."""
        return RecomputePolicy(self.recompute, self.activation_bytes)  # type: ignore[arg-type]


def divide(
    model: PreTrainedModel,
    settings: LoopSettings,
    *,
    longest: int,
    device_type: str,
    free_bytes: int,
    layers: Sequence[LayerBytes] | None = None,
    copy_bytes: int | None = None,
) -> Division:
    """Decide for a new run.

    Micro-batches are as large as still helps and as fits without recompute by estimate. One that
    keeps more than half of the free memory, such as that of a long example, recomputes layers.

    Args:
        model: with its adapter; may be on the meta device.
        longest: tokens of the longest example.
        device_type: of what computes.
        free_bytes: that activations could take.
        layers: see `kept_by_layers`, where that is known already.
        copy_bytes: see `dense_copy_bytes`, where that is known already.
    """
    room = int(ACTIVATION_SHARE * free_bytes)
    recompute = _recompute(settings)
    tokens = settings.micro_batch_tokens
    if tokens is None:
        layers = kept_by_layers(model) if layers is None else layers
        affordable = int(room / max(1.0, bytes_per_token(layers, recompute)))
        # A power of two, so that small differences in free memory make no difference.
        affordable = 1 << max(0, affordable.bit_length() - 1)
        tokens = max(min(affordable, MAX_TOKENS[device_type]), MIN_TOKENS, longest)
    if copy_bytes is None:
        copy_bytes = dense_copy_bytes(model, compute_dtype(model))
    return Division(
        micro_batch_tokens=tokens,
        recompute=recompute,
        activation_bytes=room if recompute == AUTO else None,
        packed=_packed(model, settings),
        dense_copies=recompute in (AUTO, "none") and 0 < copy_bytes <= DENSE_SHARE * free_bytes,
    )


def make_choices(
    model: PreTrainedModel,
    longest: int,
    settings: LoopSettings,
    device: torch.device,
    *,
    free_bytes: int,
    completing: Completing | None = None,
) -> Choices:
    """Decide for a new run on this machine; see `divide`.

    Args:
        longest: tokens of the longest example.
        free_bytes: that activations could take.
        completing: what the run generates itself; None: nothing.
    """
    division = divide(
        model,
        settings,
        longest=longest,
        device_type=device.type,
        free_bytes=free_bytes,
    )
    choices = Choices(
        **asdict(division),
        device=device_name(device),
        dtype=str(compute_dtype(model)),
        num_threads=torch.get_num_threads() if device.type == "cpu" else None,
        kernels=_kernels(settings, device),
        **_room_for(completing, model, free_bytes),
    )
    log.info("%s", choices.describe())
    return choices


def _room_for(
    completing: Completing | None, model: PreTrainedModel, free_bytes: int
) -> dict[str, Any]:
    """The fields of `Choices` about what the run generates."""
    if completing is None:
        return {}
    room = AnswerRoom.of(
        model,
        max_new_tokens=completing.max_new_tokens,
        given=completing.max_batch,
        free_bytes=free_bytes,
    )
    return {
        "completions_at_a_time": room.at_a_time(completing.longest_prompt),
        "dense_bytes": room.dense_bytes,
    }


def replay_choices(
    recorded: dict[str, Any], model: PreTrainedModel, settings: LoopSettings, device: torch.device
) -> Choices:
    """The choices of the run that is resumed.

    Raises:
        CheckpointError: this process cannot make the same ones, or was told to make others.
    """
    choices = Choices.from_json(recorded)
    refused = [
        f"{name}: the run was started with {theirs!r}, now it is {ours!r}"
        for name, theirs, ours in (
            ("device", choices.device, device_name(device)),
            ("dtype", choices.dtype, str(compute_dtype(model))),
            ("kernels", choices.kernels, _kernels(settings, device)),
            ("packing", choices.packed, _packed(model, settings)),
            (
                "micro_batch_tokens",
                choices.micro_batch_tokens,
                settings.micro_batch_tokens or choices.micro_batch_tokens,
            ),
            (
                "gradient_checkpointing",
                choices.recompute,
                choices.recompute if _recompute(settings) == AUTO else _recompute(settings),
            ),
        )
        if theirs != ours
    ]
    if refused:
        raise CheckpointError(
            f"the run cannot go on bit for bit. {'; '.join(refused)}. Resume under the same "
            "conditions, or start a new run in another folder."
        )
    log.info("as the run was started: %s", choices.describe())
    return choices


def kept_by_layers(model: PreTrainedModel) -> list[LayerBytes]:
    """`layer_bytes` of a model in the dtype it computes in, with its fast modules in place."""
    with fused_modules(model):
        return layer_bytes(model, compute_dtype(model).itemsize)


def bytes_per_token(layers: Sequence[LayerBytes], recompute: str) -> float:
    """What one token keeps for the backward pass, by estimate: at a level of recompute, of all
    layers; "auto": without.

    With full recompute one layer at a time is there as a whole.
    """
    kept = sum(getattr(layer, "none" if recompute == AUTO else recompute) for layer in layers)
    return kept + max((layer.none for layer in layers), default=0) * (recompute == "full")


def device_name(device: torch.device) -> str:
    """The hardware as far as it decides how floats are added: GPU name, or CPU instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _recompute(settings: LoopSettings) -> str:
    asked = settings.gradient_checkpointing
    return LEVELS[asked] if isinstance(asked, bool) else asked


def _kernels(settings: LoopSettings, device: torch.device) -> str:
    return (
        kernels.REFERENCE if settings.kernels == kernels.REFERENCE else kernels.backend_name(device)
    )


def _packed(model: PreTrainedModel, settings: LoopSettings) -> bool:
    reason = why_not_packed(model.config)
    if settings.packing and reason is not None:
        log.warning("examples are padded, not packed: %s", reason)
    return settings.packing and reason is None
