"""Proof that a merged folder computes what base and adapter compute."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorakit.adapters.attached import adapter_disabled
from lorakit.adapters.store import load_adapter
from lorakit.base.config import model_config, read_config
from lorakit.base.load import load_base, load_weights
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.errors import VerificationError

PROBE_ROWS, PROBE_TOKENS, PROBE_SEED = 2, 32, 0

# Float32 has room for a fixed promise (law 2).
BOUND_FLOAT32 = 1e-5
# Results that are rounded one after another in a decoder layer: norms, projections, attention,
# sums.
ROUNDINGS_PER_LAYER = 10
SAFETY = 2.0
# Of the adapter's effect on the logits, in a merged model: at least this much, and at least so much
# where rounding is as large as the effect. Not looked at below this part of the bound.
LEAST_SHARE, LEAST_SHARE_IN_NOISE, SMALLEST_EFFECT = 0.75, 0.25, 0.1


@dataclass(frozen=True)
class Verification:
    """How the logits of a merged folder differ from those of base + adapter on probe tokens.

    Attributes:
        dtype: both computed in.
        error: median over the tokens of ||merged - reference|| / ||reference||; float32: of all
            tokens together.
        bound: what it may be; None: the difference is reported only.
        effect: the same measure between base and base + adapter: what the adapter changes at all.
    """

    dtype: torch.dtype
    error: float
    bound: float | None
    effect: float

    def __str__(self) -> str:
        allowed = "not bounded" if self.bound is None else f"bound {self.bound:.2g}"
        return (
            f"logits in {str(self.dtype).removeprefix('torch.')} differ by {self.error:.2g} from "
            f"base + adapter ({allowed}); the adapter changes them by {self.effect:.2g}"
        )


@dataclass(frozen=True)
class Probe:
    """Logits (rows, tokens, V) and the hidden states after each layer, of one model."""

    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]


def verify_merge(
    merged: str | Path,
    *,
    base: str | Path,
    adapter: str | Path,
    dtype: torch.dtype,
    written_dtype: torch.dtype | None = None,
    quantization: str = "none",
    double_quantization: bool = True,
    block_size: int = 64,
    is_packed: bool = False,
    bounded: bool = True,
) -> Verification:
    """Compare a merged folder, loaded as it is stored, with base + adapter.

    One model is in memory at a time, on the CPU, or partly on disk where it does not fit.

    Args:
        merged: the merged folder.
        base, adapter: the folders it was made from.
        dtype: to compute in, that of the base in training: a quantized base is packed from it.
        written_dtype: of the merged weights where it is smaller than `dtype`; the bound is then
            that of computing in it.
        quantization, double_quantization, block_size: of the base in training.
        is_packed: the merged folder holds packed weights.
        bounded: False measures only.

    Raises:
        VerificationError: the logits differ by more than the bound (the first layer that does is
            named), or the adapter's effect is not in them.
    """
    model, _ = load_base(
        base,
        quantization=quantization,
        double_quantization=double_quantization,
        block_size=block_size,
        dtype=dtype,
        device="cpu",
    )
    load_adapter(model, adapter)
    ids = probe_ids(model.config.get_text_config().vocab_size)
    reference = run_probe(model, ids)
    with adapter_disabled(model):
        without = run_probe(model, ids)
    # The model refers to itself (its save_pretrained): without this both would be in memory.
    del model
    gc.collect()
    result = run_probe(_load_merged(merged, dtype, is_packed), ids)
    narrow = written_dtype or dtype
    possible = error_bound(narrow, len(result.hidden_states))
    bound = possible if bounded else None
    error = difference(result.logits, reference.logits, narrow)
    effect = difference(without.logits, reference.logits, narrow)
    # `not <=`: a NaN is a failure too.
    if bound is not None and not error <= bound:
        raise VerificationError(
            f"the merged model's logits differ by {error:.2g} from base + adapter, {bound:.2g} is "
            f"possible in {narrow}; the first difference is "
            f"{_first(result, reference, bound, narrow)}. "
            "Nothing was written. Use base and adapter unmerged, and report this."
        )
    if bounded and effect > possible * SMALLEST_EFFECT:
        share = effect_share(result.logits, reference.logits, without.logits)
        least = LEAST_SHARE if effect > 2 * possible else LEAST_SHARE_IN_NOISE
        if not share >= least:
            raise VerificationError(
                f"the merged model has {share:.0%} of the adapter's effect on the logits, which is "
                f"{effect:.2g}; at least {least:.0%} is possible in {narrow}. Nothing was written. "
                "Write the weights in float32, where small changes are not rounded away."
            )
    return Verification(dtype, error, bound, effect)


def _load_merged(folder: str | Path, dtype: torch.dtype, is_packed: bool) -> PreTrainedModel:
    """The folder's model, its layers on disk where memory is short; it needs no tokenizer."""
    model, _ = load_weights(
        Path(folder),
        model_config(read_config(Path(folder) / "config.json")),
        quantization=CHECKPOINT if is_packed else "none",
        double_quantization=True,
        block_size=64,
        dtype=dtype,
        device=torch.device("cpu"),
        offload="auto",
    )
    return model


def probe_ids(vocab_size: int) -> torch.Tensor:
    """The same random tokens (rows, tokens) for every model of this vocabulary."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    return torch.randint(vocab_size, (PROBE_ROWS, PROBE_TOKENS), generator=generator)


@torch.no_grad()
def run_probe(model: PreTrainedModel, input_ids: torch.Tensor) -> Probe:
    """Logits and hidden states of all layers."""
    outputs = model(input_ids=input_ids, output_hidden_states=True, use_cache=False)
    return Probe(outputs.logits, tuple(outputs.hidden_states or ()))


def difference(
    actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None
) -> float:
    """Relative difference of (rows, tokens, features), in float32 over all tokens together.

    In smaller dtypes the median over the tokens: a rounding may send single tokens to other
        experts. `dtype` is the smallest that took part; None: that of `expected`.
    """
    dims = None if (dtype or expected.dtype) in (torch.float32, torch.float64) else -1
    wide, other = actual.double(), expected.double()
    norm = torch.linalg.vector_norm(other, dim=dims).clamp_min(torch.finfo(torch.float32).tiny)
    return float((torch.linalg.vector_norm(wide - other, dim=dims) / norm).median())


def effect_share(result: torch.Tensor, reference: torch.Tensor, without: torch.Tensor) -> float:
    """How much of the adapter's effect is in `result`: 1 all of it, 0 none; median over tokens.

    The projection of (result - without) on (reference - without). Rounding of the two is
    independent of the effect, but for that of `without`, which is in both: a right merge of an
    effect far below the rounding has a share of 1/2, and one above it a share near 1.
    """
    effect = reference.double() - without.double()
    found = ((result.double() - without.double()) * effect).sum(-1)
    return float((found / effect.square().sum(-1).clamp_min(1e-300)).median())


def error_bound(dtype: torch.dtype, num_layers: int) -> float:
    """What two equivalent computations in `dtype` may differ by.

    Float32 and float64: the contract's 1e-5. Smaller dtypes: every rounding is off by up to half a
    unit in the last place, u = eps / 2, uniformly, so by u / sqrt(3) in the mean square;
    independent ones add as the root of their number. Two computations of `num_layers` layers with
    10 roundings each, and a safety factor of 2.
    """
    if dtype in (torch.float32, torch.float64):
        return BOUND_FLOAT32
    unit = torch.finfo(dtype).eps / 2
    return SAFETY * unit / math.sqrt(3) * math.sqrt(2 * ROUNDINGS_PER_LAYER * num_layers)


def _first(result: Probe, reference: Probe, bound: float, dtype: torch.dtype) -> str:
    for index, (one, other) in enumerate(
        zip(result.hidden_states, reference.hidden_states, strict=False)
    ):
        if not difference(one, other, dtype) <= bound:
            return "in the embeddings" if index == 0 else f"in decoder layer {index - 1}"
    return "in the output head"
