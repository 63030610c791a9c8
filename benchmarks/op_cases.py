"""What `ops.py` times: every op of the dispatch table and a fused group of projections, at the
shapes of real models, each beside the reference and a peer where there is one.

T tokens, D hidden size, F features of the MLP, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import bitsandbytes.functional as bitsandbytes
import torch
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, rotate_half

from lorakit import kernels
from lorakit.base.storages import nf4
from lorakit.kernels import dispatch, scratch
from lorakit.kernels.fused.head_chunks import CHUNK_ROWS, CHUNK_ROWS_ELSEWHERE
from lorakit.kernels.reference.four_bit import NESTED_BLOCK_SIZE

BLOCK_SIZE = 64
RANK, SCALING = 16, 2.0
DROPOUT = 0.05
EPS = 1e-6

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One op at one size.

    Attributes:
        op: as in the dispatch table.
        size: what it works on, in words.
        ours: as lorakit calls it.
        num_bytes: what has to be read and written at least; 0: `floor` says it.
        reference: the op's definition; None: what is timed is the definition.
        peer: the same result by other means, by name.
        floor: matrix products that cannot be left out.
    """

    op: str
    size: str
    ours: Call
    num_bytes: int = 0
    reference: Call | None = None
    peer: tuple[str, Call] | None = None
    floor: Call | None = None


@dataclass(frozen=True)
class Place:
    """Where and on what: device, dtype of activations, number of tokens."""

    device: torch.device
    dtype: torch.dtype
    num_tokens: int

    def randn(self, *shape: int, grad: bool = False) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype).requires_grad_(grad)

    @property
    def number_bytes(self) -> int:
        """Of one number of an activation."""
        return self.dtype.itemsize


def of_model(config: PreTrainedConfig, place: Place) -> Iterator[Case]:
    """The ops of one layer, of the head, and of the layer's widest weight."""
    hidden, inner = config.hidden_size, config.intermediate_size
    for build in (rms_norm, column_dots, keyed_dropout):
        yield from build(hidden, place)
    yield from rotary(config.num_attention_heads, hidden // config.num_attention_heads, place)
    yield from rotary(config.num_key_value_heads, hidden // config.num_attention_heads, place)
    yield from silu_mul(inner, place)
    yield from cross_entropy(config.vocab_size, place)
    yield from four_bit(inner, hidden, place)
    yield projections(hidden, inner, place)


def table_op(op: str, size: str, num_bytes: int, *arguments: object, **options: object) -> Case:
    """A case of the dispatch table: as dispatched, and as defined."""
    return Case(
        op,
        size,
        partial(getattr(dispatch, op), *arguments, **options),
        num_bytes,
        reference=partial(dispatch.OPS[op], *arguments, **options),
    )


def backward_of(outputs: torch.Tensor, inputs: list[torch.Tensor], grad: torch.Tensor) -> Call:
    """Autograd's backward pass alone, as often as it is asked for."""
    return lambda: torch.autograd.grad(outputs, inputs, grad, retain_graph=True)


def rms_norm(hidden: int, place: Place) -> Iterator[Case]:
    rows, size = place.num_tokens, f"{place.num_tokens} x {hidden}"
    x, grad, weight = (
        place.randn(rows, hidden, grad=True),
        place.randn(rows, hidden),
        place.randn(hidden),
    )
    norm = LlamaRMSNorm(hidden, EPS).to(place.device, place.dtype).requires_grad_(False)
    data, one = x.detach(), rows * hidden * place.number_bytes
    _, inverse = dispatch.rms_norm(data, weight, EPS)
    yield replace(
        table_op("rms_norm", size, 2 * one, data, weight, EPS),
        peer=("transformers", lambda: norm(data)),
    )
    yield replace(
        table_op("rms_norm_backward", size, 3 * one, data, weight, inverse, grad),
        peer=("transformers", backward_of(norm(x), [x], grad)),
    )


def column_dots(hidden: int, place: Place) -> Iterator[Case]:
    a, b = place.randn(place.num_tokens, hidden), place.randn(place.num_tokens, hidden)
    size = f"{place.num_tokens} x {hidden}"
    peer = ("torch.einsum", lambda: torch.einsum("td,td->d", a, b))
    yield replace(table_op("column_dots", size, 2 * a.nbytes, a, b), peer=peer)


def keyed_dropout(hidden: int, place: Place) -> Iterator[Case]:
    x = place.randn(place.num_tokens, hidden)
    keys = torch.randint(-(2**62), 2**62, (place.num_tokens,), device=place.device)
    size = f"{place.num_tokens} x {hidden}"
    peer = ("torch dropout", lambda: functional.dropout(x, DROPOUT, training=True))
    yield replace(table_op("keyed_dropout", size, 2 * x.nbytes, x, keys, DROPOUT), peer=peer)


def rotary(heads: int, head_size: int, place: Place) -> Iterator[Case]:
    shape = place.num_tokens, heads, head_size
    x = place.randn(*shape)
    cos, sin = (place.randn(place.num_tokens, head_size) for _ in range(2))

    def peer() -> torch.Tensor:
        # transformers' apply_rotary_pos_emb, of queries or keys alone.
        return x * cos[:, None] + rotate_half(x) * sin[:, None]

    size = " x ".join(map(str, shape))
    yield replace(table_op("rotary", size, 2 * x.nbytes, x, cos, sin), peer=("transformers", peer))


def silu_mul(inner: int, place: Place) -> Iterator[Case]:
    shape = place.num_tokens, inner
    gate, up = place.randn(*shape, grad=True), place.randn(*shape, grad=True)
    grad, size = place.randn(*shape), f"{place.num_tokens} x {inner}"
    data = gate.detach(), up.detach()
    yield table_op("silu_mul", size, 3 * grad.nbytes, *data)
    outputs = functional.silu(gate) * up
    yield replace(
        table_op("silu_mul_backward", size, 5 * grad.nbytes, *data, grad),
        peer=("torch autograd", backward_of(outputs, [gate, up], grad)),
    )


def cross_entropy(vocabulary: int, place: Place) -> Iterator[Case]:
    """A chunk of logits: values and gradient."""
    rows = min(place.num_tokens, CHUNK_ROWS.get(place.device.type, CHUNK_ROWS_ELSEWHERE))
    logits = place.randn(rows, vocabulary, grad=True)
    targets = torch.randint(vocabulary, (rows,), device=place.device)

    def peer() -> object:
        loss = functional.cross_entropy(logits.float(), targets, reduction="sum")
        return torch.autograd.grad(loss, logits)

    size, data = f"{rows} x {vocabulary}", logits.detach()
    yield replace(
        table_op("cross_entropy", size, 2 * data.nbytes, data, targets),
        peer=("torch autograd", peer),
    )


def four_bit(rows: int, columns: int, place: Place) -> Iterator[Case]:
    """NF4 of one weight: its codes, its scales, and making them."""
    dense = place.randn(rows, columns)
    size = f"{rows} x {columns}"
    codes, absmax = kernels.four_bit_quantize(dense, "nf4", BLOCK_SIZE)
    theirs = bitsandbytes.quantize_4bit(dense, blocksize=BLOCK_SIZE, quant_type="nf4")
    yield replace(
        table_op(
            "four_bit_quantize",
            size,
            dense.nbytes + codes.nbytes + absmax.nbytes,
            *(dense, "nf4", BLOCK_SIZE),
        ),
        peer=(
            "bitsandbytes",
            lambda: bitsandbytes.quantize_4bit(dense, blocksize=BLOCK_SIZE, quant_type="nf4"),
        ),
    )
    unpacked = table_op(
        "four_bit_dequantize",
        size,
        codes.nbytes + absmax.nbytes + dense.nbytes,
        *(codes, absmax, "nf4", dense.shape, BLOCK_SIZE, place.dtype),
    )
    yield replace(
        unpacked,
        ours=partial(_short_lived, unpacked.ours),
        peer=("bitsandbytes", lambda: bitsandbytes.dequantize_4bit(*theirs)),
    )
    nested = kernels.quantize_scales(absmax)
    coded, state = bitsandbytes.quantize_blockwise(absmax, blocksize=NESTED_BLOCK_SIZE)
    yield replace(
        table_op("dequantize_scales", f"{absmax.numel()}", 5 * absmax.numel(), *nested),
        peer=("bitsandbytes", lambda: bitsandbytes.dequantize_blockwise(coded, state)),
    )


def _short_lived(call: Call) -> object:
    """As a training step unpacks: the weight before it is no longer needed."""
    with scratch.short_lived():
        return call()


def projections(num_in: int, num_out: int, place: Place) -> Case:
    """Gate and up with LoRA on NF4, forward and backward. The floor: their dense products."""
    layers, factors, dense = [], [], []
    for _ in range(2):
        weight = nf4.quantize(
            place.randn(num_out, num_in), block_size=BLOCK_SIZE, double_quantization=True
        )
        low = place.randn(RANK, num_in, grad=True), place.randn(num_out, RANK, grad=True)
        layers.append(kernels.Projection(weight, None, *low, SCALING))
        factors.append(low)
        dense.append(weight.dequantize(place.dtype))
    x = place.randn(place.num_tokens, num_in, grad=True)
    grads = [place.randn(place.num_tokens, num_out) for _ in layers]
    leaves = [x, *(factor for low in factors for factor in low)]

    def by_autograd(products: Sequence[Callable[[torch.Tensor], torch.Tensor]]) -> object:
        outputs = [
            product(x) + (x @ a.T) @ b.T * SCALING
            for product, (a, b) in zip(products, factors, strict=True)
        ]
        return torch.autograd.grad(outputs, leaves, grads)

    def reference() -> object:
        with dispatch.reference_only():
            frozen = [partial(kernels.frozen_linear, weight=w.weight, bias=None) for w in layers]
            return by_autograd(frozen)

    def peer() -> object:
        return by_autograd([partial(functional.linear, weight=weight) for weight in dense])

    def floor() -> None:
        for weight, grad in zip(dense, grads, strict=True):
            torch.mm(x.detach(), weight.T)
            torch.mm(grad, weight)

    return Case(
        "projections",
        f"{place.num_tokens} x {num_in} to 2 x {num_out}",
        lambda: torch.autograd.grad(kernels.projections(x, layers), leaves, grads),
        reference=reference,
        peer=("torch autograd, dense", peer),
        floor=floor,
    )
