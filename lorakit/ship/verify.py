"""Proof that a merged folder computes what base and adapter compute."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorakit.adapters.attached import adapter_disabled
from lorakit.adapters.store import load_adapter
from lorakit.base.load import load_base
from lorakit.errors import VerificationError

PROBE_ROWS, PROBE_TOKENS, PROBE_SEED = 2, 32, 0

# Float32 has room for a fixed promise (law 2).
BOUND_FLOAT32 = 1e-5
# Results that are rounded one after another in a decoder layer: norms, projections, attention,
# sums.
ROUNDINGS_PER_LAYER = 10
SAFETY = 2.0


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
    quantization: str = "none",
    double_quantization: bool = True,
    block_size: int = 64,
    bounded: bool = True,
) -> Verification:
    """Compare a merged folder, loaded plainly by transformers, with base + adapter.

    One model is in memory at a time, on the CPU.

    Args:
        merged: the merged folder.
        base, adapter: the folders it was made from.
        dtype: to compute in.
        quantization, double_quantization, block_size: of the base in training.
        bounded: False measures only.

    Raises:
        VerificationError: the logits differ by more than the bound; the first layer that does is
            named.
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
    plain = AutoModelForCausalLM.from_pretrained(
        str(merged), dtype=dtype, local_files_only=True, trust_remote_code=False
    )
    result = run_probe(plain.eval(), ids)
    bound = error_bound(dtype, len(result.hidden_states)) if bounded else None
    error = difference(result.logits, reference.logits)
    effect = difference(without.logits, reference.logits)
    # `not <=`: a NaN is a failure too.
    if bound is not None and not error <= bound:
        raise VerificationError(
            f"the merged model's logits differ by {error:.2g} from base + adapter, {bound:.2g} is "
            f"possible in {dtype}; the first difference is {_first(result, reference, bound)}. "
            "Nothing was written. Use base and adapter unmerged, and report this."
        )
    return Verification(dtype, error, bound, effect)


def probe_ids(vocab_size: int) -> torch.Tensor:
    """The same random tokens (rows, tokens) for every model of this vocabulary."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    return torch.randint(vocab_size, (PROBE_ROWS, PROBE_TOKENS), generator=generator)


@torch.no_grad()
def run_probe(model: PreTrainedModel, input_ids: torch.Tensor) -> Probe:
    """Logits and hidden states of all layers."""
    outputs = model(input_ids=input_ids, output_hidden_states=True, use_cache=False)
    return Probe(outputs.logits, tuple(outputs.hidden_states or ()))


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative difference of (rows, tokens, features), in float32 over all tokens together.

    In smaller dtypes the median over the tokens: a rounding may send single tokens to other
        experts.
    """
    dims = None if expected.dtype in (torch.float32, torch.float64) else -1
    wide, other = actual.double(), expected.double()
    norm = torch.linalg.vector_norm(other, dim=dims).clamp_min(torch.finfo(torch.float32).tiny)
    return float((torch.linalg.vector_norm(wide - other, dim=dims) / norm).median())


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


def _first(result: Probe, reference: Probe, bound: float) -> str:
    for index, (one, other) in enumerate(
        zip(result.hidden_states, reference.hidden_states, strict=False)
    ):
        if not difference(one, other) <= bound:
            return "in the embeddings" if index == 0 else f"in decoder layer {index - 1}"
    return "in the output head"
