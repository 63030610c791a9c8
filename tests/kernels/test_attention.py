"""packed_attention: against a dense float64 softmax over the whole pack."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from packaging.version import Version
from torch.utils._python_dispatch import TorchDispatchMode

from lorakit import kernels
from lorakit.kernels.fused import packed_attention
from tests.tolerances import OP, relative_error

STARTS = [0, 1, 8, 8 + 17, 8 + 17 + 5]
CASES = {
    "plain": {},
    "scaled": {"scaling": 0.7},
    "window": {"sliding_window": 4},
    "window longer than all": {"sliding_window": 400},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": True},
    "all": {"softcap": 1.5, "sinks": True, "sliding_window": 4, "scaling": 0.7},
    "not causal": {"causal": False},
}


def dense_reference(
    q, k, v, starts, *, scaling=None, causal=True, sliding_window=None, softcap=None, sinks=None
):
    """The definition, with a (T, T) mask, in the dtype given."""
    groups = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    scores = q @ k.mT * (scaling or 1 / math.sqrt(q.shape[-1]))
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    example = torch.bucketize(torch.arange(q.shape[1]), torch.tensor(starts[1:]), right=True)
    position = torch.arange(q.shape[1])
    distance = position[:, None] - position[None]
    seen = example[:, None] == example[None]
    if causal:
        seen &= distance >= 0
    if sliding_window is not None:
        seen &= distance.abs() < sliding_window
    scores = scores.masked_fill(~seen, -math.inf)
    extra = [] if sinks is None else [sinks[:, None, None].expand(-1, q.shape[1], 1)]
    weights = torch.cat([scores, *extra], -1).softmax(-1)[..., : q.shape[1]]
    return weights @ v


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [5, 8])  # of values; queries and keys have 8
@pytest.mark.parametrize("forced", [False, True])
def test_against_a_dense_float64_softmax(
    forced: bool, size: int, case: str, heads: tuple[int, int], dtype
) -> None:
    options = dict(CASES[case])
    num_tokens = STARTS[-1]
    shapes = [(heads[0], num_tokens, 8), (heads[1], num_tokens, 8), (heads[1], num_tokens, size)]
    inputs = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    if options.pop("sinks", False):
        inputs.append(torch.randn(heads[0], dtype=dtype, requires_grad=True))
        exact.append(inputs[-1].detach().double().requires_grad_())
    names = ["sinks"] if len(inputs) == 4 else []
    starts = torch.tensor(STARTS, dtype=torch.int32)
    with kernels.reference_only() if forced else nullcontext():
        out = kernels.packed_attention(
            *inputs[:3], starts, 17, **options, **dict(zip(names, inputs[3:], strict=True))
        )
    expected = dense_reference(
        *exact[:3], STARTS, **options, **dict(zip(names, exact[3:], strict=True))
    )
    grad = torch.randn_like(expected)
    out.backward(grad.to(dtype))
    expected.backward(grad)
    assert out.dtype == dtype
    # Attention is several ops in a row: twice the bound of one.
    assert relative_error(out, expected) < 2 * OP[dtype]
    for mine, right in zip(inputs, exact, strict=True):
        assert relative_error(mine.grad, right.grad) < 2 * OP[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("case", [case for case in CASES if case != "not causal"])
def test_decoding_equals_the_last_row_of_the_definition(
    case: str, heads: tuple[int, int], dtype
) -> None:
    options = dict(CASES[case])
    lengths, room = (1, 13, 7), 20
    query = torch.randn(3, heads[0], 8, dtype=torch.float64).to(dtype)
    keys = torch.randn(3, heads[1], room, 8, dtype=torch.float64).to(dtype)
    values = torch.randn(3, heads[1], room, 5, dtype=torch.float64).to(dtype)
    if options.pop("sinks", False):
        options["sinks"] = torch.randn(heads[0], dtype=dtype)
    distance = torch.tensor(lengths)[:, None] - 1 - torch.arange(room)
    seen = (distance >= 0) & (distance < options.get("sliding_window", room))
    mask = torch.zeros(3, room, dtype=dtype).masked_fill(~seen, -torch.inf)
    window = options.pop("sliding_window", None)
    out = kernels.decode_attention(query, keys, values, mask, **options)
    if "sinks" in options:
        options["sinks"] = options["sinks"].double()
    for index, length in enumerate(lengths):
        earlier = torch.zeros(heads[0], length - 1, 8, dtype=torch.float64)
        q = torch.cat([earlier, query[index, :, None].double()], dim=1)
        k, v = keys[index, :, :length].double(), values[index, :, :length].double()
        expected = dense_reference(q, k, v, [0, length], sliding_window=window, **options)[:, -1]
        assert relative_error(out[index], expected) < 2 * OP[dtype]


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return out


@pytest.mark.parametrize("case", CASES)
def test_nothing_of_the_size_of_the_pack_squared(case: str) -> None:
    options = dict(CASES[case])
    length, count = 16, 32
    num_tokens = length * count
    if options.pop("sinks", False):
        options["sinks"] = torch.zeros(2)
    q, k, v = (torch.randn(2, num_tokens, 4, requires_grad=True) for _ in range(3))
    starts = torch.arange(0, num_tokens + 1, length, dtype=torch.int32)
    with LargestTensor() as largest:
        kernels.packed_attention(q, k, v, starts, length, **options).sum().backward()
    assert largest.numel <= max(q.numel(), 2 * length * (length + 1))
    assert largest.numel < num_tokens**2


def test_a_pytorch_without_its_private_ops_is_served_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pack = [torch.randn(2, 7, 8, requires_grad=True) for _ in range(3)]
    starts = torch.tensor([0, 3, 7], dtype=torch.int32)
    weights = torch.randn(2, 7, 8)

    def attend() -> tuple[torch.Tensor, ...]:
        out = kernels.packed_attention(*pack, starts, 4)
        return out, *torch.autograd.grad(out, pack, weights)

    expected = attend()
    with caplog.at_level("WARNING"):
        assert not caplog.records
        monkeypatch.setattr(packed_attention, "_BACKWARD", "no_such_op")
        packed_attention._has_cpu_ops.cache_clear()
        try:
            found = attend()
        finally:
            packed_attention._has_cpu_ops.cache_clear()
    assert "has no no_such_op" in caplog.text
    for mine, right in zip(found, expected, strict=True):
        assert relative_error(mine, right) < OP[torch.float32]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"dtype": torch.float32}, "its dtype is torch.float32"),
        ({"value_size": 4}, "values of another size"),
        ({"plain": False}, "soft-capped scores"),
    ],
)
def test_what_ragged_attention_does_not_serve_is_told(
    change: dict, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "_why_no_varlen", lambda: None)
    dtype = change.get("dtype", torch.bfloat16)
    sizes = (8, 8, change.get("value_size", 8))
    pack = [torch.empty(2, 7, size, dtype=dtype) for size in sizes]
    reason = packed_attention._why_not_ragged(*pack, plain=change.get("plain", True))
    assert (reason is None) if told is None else told in reason


def test_attention_over_ragged_rows_is_found_from_pytorch_2_13_on() -> None:
    found = packed_attention._why_no_varlen() is None
    assert found == (Version(torch.__version__) >= Version("2.13"))
