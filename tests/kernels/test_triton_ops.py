"""Every Triton kernel against the reference. Marked `gpu`; test_triton.py runs them all in Triton's
interpreter as well.
"""

from __future__ import annotations

import pytest
import torch

from lorakit.kernels import dispatch
from lorakit.kernels.reference.four_bit import CODE_VALUES, four_bit_quantize, quantize_scales
from tests.kernels.op_arguments import (
    ARGUMENTS,
    EXACT,
    ONLY_ON_CPUS,
    arguments_of,
    in_a_tuple,
    in_float64,
    on,
)
from tests.tolerances import OP, relative_error

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Fewer rows than the CPU's: the interpreter takes milliseconds for each program.
SHAPES = [(0, 5), (1, 1), (3, 7), (17, 64), (9, 129), (2, 4099), (260, 17)]
# The interpreter computes with numpy, which warns of what floats are made to do.
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:(overflow|invalid|divide):RuntimeWarning"),
]


def test_every_op_is_served(ops) -> None:
    assert ARGUMENTS.keys() | EXACT == dispatch.OPS.keys() == set(ops.__all__) | ONLY_ON_CPUS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_against_float64(name: str, shape: tuple[int, int], dtype, ops, device) -> None:
    arguments = arguments_of(name, shape, device, dtype)
    actual = in_a_tuple(getattr(ops, name)(*arguments))
    expected = in_a_tuple(dispatch.OPS[name](*in_float64(tuple(arguments))))
    plain = in_a_tuple(dispatch.OPS[name](*arguments))
    for ours, exact, reference in zip(actual, expected, plain, strict=True):
        assert (ours.shape, ours.dtype) == (reference.shape, reference.dtype)
        # A number whose reference is 0 has no relative error: a row of one number, normed.
        assert relative_error(ours, exact) < OP[dtype] or (
            relative_error(ours, exact) <= relative_error(reference, exact)
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_other_layouts(name: str, dtype, ops, device) -> None:
    """Every tensor with its memory in another order."""
    arguments = arguments_of(name, (33, 18), device, dtype)
    strided = [a.mT.contiguous().mT if torch.is_tensor(a) and a.ndim > 1 else a for a in arguments]
    expected = in_a_tuple(getattr(ops, name)(*arguments))
    for ours, wanted in zip(in_a_tuple(getattr(ops, name)(*strided)), expected, strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary_turns_back(dtype, ops, device) -> None:
    x, grad = torch.randn(2, 37, 5, 20, device=device, dtype=dtype)
    cos, sin = (torch.randn(37, 14, device=device, dtype=dtype) for _ in range(2))
    wide = x.double().requires_grad_()
    y = dispatch.OPS["rotary"](wide, cos.double(), sin.double())
    (expected,) = torch.autograd.grad(y, wide, grad.double())
    assert relative_error(ops.rotary(grad, cos, sin, backward=True), expected) < OP[dtype]


def test_offsets_beyond_32_bits(ops, device) -> None:
    """A view whose rows lie 2**30 apart: the third begins at number 2**31."""
    space = torch.empty(2**31 + 64, dtype=torch.bfloat16, device=device)
    x = space.as_strided((3, 2, 8), (2**30, 8, 1))
    x.copy_(torch.randn(3, 2, 8))
    cos, sin = (torch.randn(3, 8, device=device, dtype=torch.bfloat16) for _ in range(2))
    assert torch.equal(ops.rotary(x, cos, sin), ops.rotary(x.contiguous(), cos, sin))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("code_book", sorted(CODE_VALUES))
@pytest.mark.parametrize("block_size", [32, 4096])
@pytest.mark.parametrize("count", [0, 1, 65, 9_001])
def test_dequantize_to_the_same_bits(
    count: int, block_size: int, code_book: str, dtype, ops, device
) -> None:
    # Over all exponents, so that rounding meets ties, underflow and infinity.
    weight = torch.randn(count) * torch.logspace(-30, 30, count)
    codes, absmax = four_bit_quantize(weight, code_book, block_size)
    arguments = on(device, (codes, absmax, code_book, torch.Size([count]), block_size, dtype))
    expected = dispatch.OPS["four_bit_dequantize"](*arguments)
    actual = ops.four_bit_dequantize(*arguments)
    assert actual.dtype == dtype and torch.equal(actual, expected)
    if count == 0:
        return
    scales, *nested = on(device, quantize_scales(absmax))
    arguments[1] = scales
    expected = dispatch.OPS["four_bit_dequantize"](*arguments, tuple(nested))
    assert torch.equal(ops.four_bit_dequantize(*arguments, tuple(nested)), expected)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 70_001])
def test_scales_to_the_same_bits(count: int, ops, device) -> None:
    quantized = on(device, quantize_scales(torch.rand(count) + 0.1))
    expected = dispatch.OPS["dequantize_scales"](*quantized)
    assert torch.equal(ops.dequantize_scales(*quantized), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 1 - 1e-12])
@pytest.mark.parametrize("shape", [(20, 7), (3, 1100)], ids=str)
def test_dropout_to_the_same_bits(shape: tuple[int, int], p: float, dtype, ops, device) -> None:
    x = torch.randn(*shape, device=device, dtype=dtype)
    keys = torch.randint(-(2**63), 2**63 - 1, shape[:1], device=device)
    x[0, 0] = float("inf")
    expected = dispatch.OPS["keyed_dropout"](x, keys, p)
    actual = ops.keyed_dropout(x, keys, p)
    assert torch.equal(actual.nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 90.0, -90.0, 300.0])
def test_extreme_values(value: float, ops, device) -> None:
    gate, up = torch.tensor([value, 1.0]), torch.tensor([2.0, 1.0])
    logits = torch.tensor([[value, 1.0, 0.0], [0.0, value, value], [1.0, 2.0, 3.0]])
    cases = {
        "silu_mul": (gate, up),
        "silu_mul_backward": (gate, up, torch.ones(2)),
        "column_dots": (gate[:, None], up[:, None]),
        "cross_entropy": (logits, torch.tensor([1, 0, 2]), torch.ones(3)),
    }
    for name, given in cases.items():
        given = on(device, given)
        actual = in_a_tuple(getattr(ops, name)(*given))
        expected = in_a_tuple(dispatch.OPS[name](*given))
        for ours, exact in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, exact, equal_nan=True, rtol=1e-5, atol=1e-35)


def test_logits_of_minus_infinity(ops, device) -> None:
    """Whole tiles of them, as a head with a padded vocabulary gives."""
    logits = torch.randn(3, 9000, device=device)
    logits[:, :5000] = float("-inf")
    targets = torch.tensor([5000, 7000, 8999], device=device)
    actual = ops.cross_entropy(logits, targets)
    expected = dispatch.OPS["cross_entropy"](*in_float64((logits, targets)))
    for ours, exact in zip(actual, expected, strict=True):
        assert relative_error(ours, exact) < OP[torch.float32]


def test_a_target_outside_the_vocabulary_is_not_read(ops, device) -> None:
    nll, grad = ops.cross_entropy(
        torch.zeros(2, 4, device=device), torch.tensor([4, -1], device=device)
    )
    assert nll.isnan().all() and grad.isfinite().all()


def test_cross_entropy_without_a_gradient(ops, device) -> None:
    logits, targets = torch.randn(5, 70, device=device), torch.arange(5, device=device)
    nll, grad = ops.cross_entropy(logits, targets, needs_grad=False)
    assert grad is None and torch.equal(nll, ops.cross_entropy(logits, targets)[0])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("silu_mul", (torch.ones(4, 8), torch.ones(3, 8))),
        ("silu_mul_backward", (torch.ones(4, 8), torch.ones(4, 8), torch.ones(3, 8))),
        ("rms_norm", (torch.ones(4, 8), torch.ones(7), 1e-6)),
        ("rms_norm_backward", (torch.ones(4, 8), torch.ones(8), torch.ones(4), torch.ones(3, 8))),
        ("column_dots", (torch.ones(4, 8), torch.ones(3, 8))),
        ("rotary", (torch.ones(4, 2, 8), torch.ones(3, 8), torch.ones(3, 8))),
        ("keyed_dropout", (torch.ones(4, 8), torch.ones(5, dtype=torch.int64), 0.5)),
        ("keyed_dropout", (torch.ones(4, 8), torch.ones(4, dtype=torch.int64), 1.0)),
        ("cross_entropy", (torch.ones(4, 8), torch.zeros(5, dtype=torch.int64))),
        (
            "four_bit_dequantize",
            (torch.zeros(8).byte(), torch.ones(1), "nf4", torch.Size([64]), 64, torch.float32),
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_not_read_beyond(
    name: str, arguments: tuple, ops, device
) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        getattr(ops, name)(*on(device, arguments))


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_other_dtypes_are_the_reference_s_to_do(name: str, ops, device) -> None:
    arguments = in_float64(tuple(on(device, ARGUMENTS[name](5, 6))))
    actual = in_a_tuple(getattr(ops, name)(*arguments))
    for ours, exact in zip(actual, in_a_tuple(dispatch.OPS[name](*arguments)), strict=True):
        assert torch.equal(ours, exact)
