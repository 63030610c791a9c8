"""What the engine decides where the recipe leaves it open: decided once, logged, stored, replayed.

Other micro-batches, recompute or threads add floats in another order, so a resumed run must use the
very choices it was started with, or be refused.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.base.families import why_not_packed
from lorakit.base.frozen_experts import FrozenExperts, rows_per_token
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.data.examples import ExampleSet
from lorakit.engine.dense_copies import dense_copy_bytes
from lorakit.errors import CheckpointError
from lorakit.train.settings import LoopSettings

# Above this many tokens per forward pass, matrix products no longer get faster per token: on a CPU
# early, on a GPU late.
MAX_TOKENS = {"cpu": 2048, "cuda": 16384}
MIN_TOKENS = 512

# Share of the free memory that dense copies of packed weights may take: whoever quantizes wants the
# memory, so they are kept only where nobody would notice. They save two passes over the weights per
# micro-batch, the less of its time the more tokens it has.
DENSE_SHARE = 0.01

# Share of the free memory that activations may take by the estimate below; the rest is for what it
# leaves out (attention, the logits of a chunk, dequantized weights) and for fragmentation.
ACTIVATION_SHARE = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choices:
    """One value per decision.

    Attributes:
        micro_batch_tokens: token budget of a forward pass.
        gradient_checkpointing: whether layers are recomputed in the backward.
        packed: whether examples share a row; otherwise they are padded.
        device: what computes: the GPU's name, or the CPU's instruction set.
        dtype: that the base computes in.
        num_threads: of the CPU; None where it does not matter.
        kernels: which implementation of the ops (see `kernels.backend_name`).
        dense_copies: whether packed weights are kept unpacked too, for the whole run.
    """

    micro_batch_tokens: int
    gradient_checkpointing: bool
    packed: bool
    device: str
    dtype: str
    num_threads: int | None
    kernels: str = kernels.REFERENCE  # what runs from before there was another one computed with
    dense_copies: bool = False

    def describe(self) -> str:
        """One line for people."""
        laid_out = "packed" if self.packed else "padded"
        recompute = "" if self.gradient_checkpointing else "no "
        threads = "" if self.num_threads is None else f"; {self.num_threads} CPU threads"
        return (
            f"micro-batches of up to {self.micro_batch_tokens} tokens, {laid_out}; "
            f"{recompute}gradient checkpointing{threads}; {self.dtype.removeprefix('torch.')}; "
            f"{self.kernels} kernels{'; dense copies of packed weights' * self.dense_copies}"
        )

    def to_json(self) -> dict[str, Any]:
        """For choices.json and the checkpoint."""
        return asdict(self)


def make_choices(
    model: PreTrainedModel,
    examples: ExampleSet,
    settings: LoopSettings,
    device: torch.device,
    *,
    free_bytes: int,
) -> Choices:
    """Decide for a new run.

    Micro-batches are as large as still helps and as fits by estimate; layers are recomputed when
    the estimate for one micro-batch is over half of the free memory.

    Args:
        free_bytes: that activations could take.
    """
    longest = int(examples.lengths.max())
    per_token, recomputed_per_token = activation_bytes_per_token(model)
    room = ACTIVATION_SHARE * free_bytes
    wanted = settings.micro_batch_tokens or max(longest, MIN_TOKENS)
    checkpointing = settings.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = model.supports_gradient_checkpointing and wanted * per_token > room
        log.info(
            "gradient checkpointing %s: %d tokens keep about %.2f GiB, %.2f GiB may be used",
            "on" if checkpointing else "off",
            wanted,
            wanted * per_token / 2**30,
            room / 2**30,
        )
    tokens = settings.micro_batch_tokens
    if tokens is None:
        affordable = room / (recomputed_per_token if checkpointing else per_token)
        # A power of two, so that small differences in free memory make no difference.
        affordable = 1 << max(0, int(affordable).bit_length() - 1)
        tokens = max(min(affordable, MAX_TOKENS[device.type]), MIN_TOKENS, longest)
    choices = Choices(
        micro_batch_tokens=tokens,
        gradient_checkpointing=checkpointing,
        packed=_packed(model, settings),
        device=device_name(device),
        dtype=str(compute_dtype(model)),
        num_threads=torch.get_num_threads() if device.type == "cpu" else None,
        kernels=_kernels(settings, device),
        dense_copies=not checkpointing
        and 0 < dense_copy_bytes(model, compute_dtype(model)) <= DENSE_SHARE * free_bytes,
    )
    log.info("%s", choices.describe())
    return choices


def replay_choices(
    recorded: dict[str, Any], model: PreTrainedModel, settings: LoopSettings, device: torch.device
) -> Choices:
    """The choices of the run that is resumed.

    Raises:
        CheckpointError: this process cannot make the same ones, or was told to make others.
    """
    choices = Choices(**recorded)
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
                choices.gradient_checkpointing,
                choices.gradient_checkpointing
                if settings.gradient_checkpointing == "auto"
                else settings.gradient_checkpointing,
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


def activation_bytes_per_token(model: PreTrainedModel) -> tuple[float, float]:
    """What one token keeps for the backward, by estimate: without and with recompute, in bytes.

    Without recompute every linear layer keeps its input and its output, and so do experts, for each
    that a token is sent to. With it, every layer keeps its input, and one layer at a time is there
    in full.
    """
    config = model.config.get_text_config()
    itemsize = compute_dtype(model).itemsize
    features = 0
    for module in model.base_model.modules():
        if isinstance(module, nn.Linear | FrozenLinear):
            features += module.in_features + module.out_features
        elif isinstance(module, FrozenExperts):
            rows = rows_per_token(module, config)
            features += rows * (module.in_features + module.out_features)
    num_layers = max(1, config.num_hidden_layers)
    kept = float(features * itemsize)
    return kept, num_layers * config.hidden_size * itemsize + kept / num_layers


def device_name(device: torch.device) -> str:
    """The hardware as far as it decides how floats are added: GPU name, or CPU instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _kernels(settings: LoopSettings, device: torch.device) -> str:
    return (
        kernels.REFERENCE if settings.kernels == kernels.REFERENCE else kernels.backend_name(device)
    )


def _packed(model: PreTrainedModel, settings: LoopSettings) -> bool:
    reason = why_not_packed(model.config)
    if settings.packing and reason is not None:
        log.warning("examples are padded, not packed: %s", reason)
    return settings.packing and reason is None


def compute_dtype(model: PreTrainedModel) -> torch.dtype:
    """The dtype the base computes in; `model.dtype` may be that of an adapter."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.dtype
