"""Every op of every backend that can run here: against the reference in float64, on odd shapes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from lorakit.base.four_bit import quantize
from lorakit.kernels import dispatch
from lorakit.kernels.cpu import COMPILED, compiled, ops, threads
from lorakit.kernels.reference.four_bit import (
    CODE_VALUES,
    code_values,
    four_bit_quantize,
    nearest,
    quantize_scales,
)
from tests.kernels.op_arguments import ARGUMENTS, EXACT, SHAPES, in_a_tuple, in_float64
from tests.tolerances import OP, relative_error

SERVED = sorted(name for name in ARGUMENTS if hasattr(ops, name))


def test_every_op_is_tested() -> None:
    assert threads.available()
    assert ARGUMENTS.keys() | EXACT == dispatch.OPS.keys()
    kernels = {name for name, value in vars(compiled).items() if isinstance(value, compiled.Kernel)}
    assert len(kernels) == sum(hasattr(ops, name) for name in dispatch.OPS)
    # Softmax is the one PyTorch has a compiled kernel for.
    assert dispatch.OPS.keys() - vars(ops).keys() == {"cross_entropy"}
    assert dispatch.OPS.keys() & vars(ops).keys() == COMPILED


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SERVED)
def test_against_float64(name: str, shape: tuple[int, int], num_threads: int) -> None:
    arguments = ARGUMENTS[name](*shape)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        actual = in_a_tuple(getattr(ops, name)(*arguments))
    finally:
        torch.set_num_threads(before)
    expected = in_a_tuple(dispatch.OPS[name](*in_float64(arguments)))
    assert [one.shape for one in actual] == [one.shape for one in expected]
    for ours, exact in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, exact) < OP[torch.float32]


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_the_reference_differentiates_what_it_computes(name: str) -> None:
    """The ops that end in `_backward`, and those that are their own, against autograd."""
    t, d = 5, 6
    wide = in_float64(ARGUMENTS[name](t, d))
    op = dispatch.OPS[name]
    if name.endswith("_backward"):
        forward = dispatch.OPS[name.removesuffix("_backward")]
        leaves = [a.requires_grad_() for a in wide[: 1 if name == "rms_norm_backward" else 2]]
        if name == "rms_norm_backward":
            eps = 1e-6
            y, inverse = forward(leaves[0], wide[1], eps)
            expected = torch.autograd.grad(y, leaves, wide[3])
            actual = in_a_tuple(op(leaves[0].detach(), wide[1], inverse.detach(), wide[3]))
        else:
            expected = torch.autograd.grad(forward(*leaves), leaves, wide[2])
            actual = in_a_tuple(op(*(leaf.detach() for leaf in leaves), wide[2]))
    elif name == "cross_entropy":
        logits, targets, weights = wide
        logits.requires_grad_()
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        expected = (nll.detach(), *torch.autograd.grad((nll * weights).sum(), logits))
        actual = op(logits.detach(), targets, weights)
    elif name == "rotary":
        x = wide[0].requires_grad_()
        grad = torch.randn_like(x)
        expected = torch.autograd.grad(op(x, *wide[1:]), x, grad)
        actual = (op(grad, *wide[1:], backward=True),)
    elif name == "keyed_dropout":
        x = wide[0].requires_grad_()
        grad = torch.randn_like(x)
        expected = torch.autograd.grad(op(x, *wide[1:]), x, grad)
        actual = (op(grad, *wide[1:]),)
    else:
        return  # nothing is said about its gradient
    for ours, exact in zip(actual, expected, strict=True):
        assert relative_error(ours, exact) < OP[torch.float64]


@pytest.mark.parametrize("code_book", sorted(CODE_VALUES))
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("count", [1, 2, 31, 64, 65, 4095, 70_001])
def test_dequantize_to_the_same_bits(code_book: str, block_size: int, count: int) -> None:
    codes, absmax = four_bit_quantize(torch.randn(count), code_book, block_size)
    arguments = (codes, absmax, code_book, torch.Size([count]), block_size)
    for dtype in (torch.float32, torch.bfloat16):
        expected = dispatch.OPS["four_bit_dequantize"](*arguments, dtype)
        assert torch.equal(ops.four_bit_dequantize(*arguments, dtype), expected)
    scales, *nested = quantize_scales(absmax)
    arguments = (codes, scales, *arguments[2:], torch.float32, tuple(nested))
    expected = dispatch.OPS["four_bit_dequantize"](*arguments)
    assert torch.equal(ops.four_bit_dequantize(*arguments), expected)


@pytest.mark.parametrize("code_book", sorted(CODE_VALUES))
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_quantize_to_the_same_bytes(dtype, block_size: int, code_book: str) -> None:
    values = code_values(code_book, torch.device("cpu"))
    midpoints, _ = nearest(code_book, values.device)
    beside = [midpoints.nextafter(torch.full((), to)) for to in (-2.0, 2.0)]
    weights = {count: torch.randn(count) for count in (1, 2, 31, 64, 65, 4095, 4096, 1_200_001)}
    weights |= {
        "zeros": torch.zeros(2 * block_size),
        "tiny": torch.full((2 * block_size,), 1e-42),
        # A 1 in each block is its scale, so the others stay where they are.
        "midpoints": torch.cat(
            [
                torch.nn.functional.pad(part, (1, block_size - 1 - len(part)), value=1.0)
                for part in (values, midpoints, *beside)
            ]
        ),
        "not a number": torch.randn(9000).index_fill(0, torch.tensor([70]), torch.nan),
        "infinite": torch.randn(9000).index_fill(0, torch.tensor([70]), -torch.inf),
        "nothing": torch.zeros(0),
    }
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    wide = torch.randn(130, 128).to(dtype)
    weights |= {
        "transposed": wide.T,
        "every second column": wide[:, ::2],
        "one column": wide[:, :1],
        "every second row": wide[::2],
        "one number": wide[0, 0].expand(64, 128),
    }
    for (name, weight), num_threads in itertools.product(weights.items(), (1, 2)):
        expected = dispatch.OPS["four_bit_quantize"](weight, code_book, block_size)
        before = torch.get_num_threads()
        torch.set_num_threads(num_threads)
        try:
            actual = ops.four_bit_quantize(weight, code_book, block_size)
        finally:
            torch.set_num_threads(before)
        for ours, exact in zip(actual, expected, strict=True):
            assert ours.dtype == exact.dtype
            assert torch.equal(ours.nan_to_num(), exact.nan_to_num()), name


def test_what_quantizing_on_a_cpu_does_not_serve_is_the_reference_s_to_do() -> None:
    weight = torch.randn(300)
    for given, block_size in ((weight.double(), 64), (weight, 63), (weight.to("meta"), 64)):
        expected = dispatch.OPS["four_bit_quantize"](given, "nf4", block_size)
        for ours, exact in zip(
            ops.four_bit_quantize(given, "nf4", block_size), expected, strict=True
        ):
            assert ours.device == exact.device
            assert exact.is_meta or torch.equal(ours, exact)


def test_a_weight_is_quantized_by_the_compiled_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []
    kernel = compiled.four_bit_quantize
    monkeypatch.setattr(
        compiled, "four_bit_quantize", lambda *given: (launches.append(given), kernel(*given))
    )
    weight = torch.randn(64, 64)
    with torch.device("meta"):  # where new tensors go that are given no other place
        packed = quantize(weight, "nf4", 64, double_quantization=False)
    assert len(launches) == 1
    codes, absmax = dispatch.OPS["four_bit_quantize"](weight, "nf4", 64)
    assert torch.equal(packed.codes, codes) and torch.equal(packed.absmax, absmax)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 70_001])
def test_scales_to_the_same_bits(count: int) -> None:
    quantized = quantize_scales(torch.rand(count) + 0.1)
    expected = dispatch.OPS["dequantize_scales"](*quantized)
    assert torch.equal(ops.dequantize_scales(*quantized), expected)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 90.0, -90.0, 300.0])
def test_extreme_values(value: float) -> None:
    gate, up = torch.tensor([value, 1.0]), torch.tensor([2.0, 1.0])
    arguments = {"silu_mul": (gate, up), "silu_mul_backward": (gate, up, torch.ones(2))}
    for name, given in arguments.items():
        actual = in_a_tuple(getattr(ops, name)(*given))
        expected = in_a_tuple(dispatch.OPS[name](*given))
        for ours, exact in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, exact, equal_nan=True, rtol=1e-5, atol=1e-35)


def test_what_is_not_finite_does_not_become_finite() -> None:
    for value in (float("inf"), float("-inf"), float("nan")):
        assert not ops.silu_mul(torch.tensor([value]), torch.ones(1)).isfinite()
        assert not ops.silu_mul(torch.ones(1), torch.tensor([value])).isfinite()
        assert not ops.column_dots(torch.tensor([[value]]), torch.ones(1, 1)).isfinite()


def test_other_dtypes_and_layouts_are_served() -> None:
    x = torch.randn(6, 8).to(torch.bfloat16)
    assert ops.silu_mul(x, x).dtype == torch.bfloat16
    strided = torch.randn(8, 6).T
    assert (
        relative_error(ops.silu_mul(strided, strided), dispatch.OPS["silu_mul"](strided, strided))
        < OP[torch.float32]
    )
    heads = torch.randn(3, 5, 8).transpose(0, 1)  # (T, heads, D), as attention's backward gives it
    cos, sin = torch.randn(5, 8), torch.randn(5, 8)
    assert (
        relative_error(ops.rotary(heads, cos, sin), dispatch.OPS["rotary"](heads, cos, sin))
        < OP[torch.float32]
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("silu_mul", (torch.ones(4, 8), torch.ones(3, 8))),
        ("silu_mul_backward", (torch.ones(4, 8), torch.ones(4, 8), torch.ones(3, 8))),
        ("rms_norm", (torch.ones(4, 8), torch.ones(7), 1e-6)),
        ("column_dots", (torch.ones(4, 8), torch.ones(3, 8))),
        ("rotary", (torch.ones(4, 2, 8), torch.ones(3, 8), torch.ones(3, 8))),
        ("keyed_dropout", (torch.ones(4, 8), torch.ones(5, dtype=torch.int64), 0.5)),
        (
            "four_bit_dequantize",
            (torch.zeros(8).byte(), torch.ones(1), "nf4", torch.Size([64]), 64, torch.float32),
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_not_read_beyond(name: str, arguments: tuple) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        getattr(ops, name)(*arguments)


def test_scales_that_do_not_fit_are_the_reference_s_to_do() -> None:
    arguments = torch.arange(600).byte(), torch.rand(2), torch.zeros(())
    expected = dispatch.OPS["dequantize_scales"](*arguments)
    assert torch.equal(ops.dequantize_scales(*arguments), expected)


def test_nothing_to_do() -> None:
    assert ops.silu_mul(torch.empty(0, 4), torch.empty(0, 4)).shape == (0, 4)
    assert ops.column_dots(torch.empty(0, 4), torch.empty(0, 4)).tolist() == [0.0] * 4


def test_a_caller_may_insist_on_the_reference() -> None:
    device = torch.device("cpu")
    assert dispatch.backend_name(device) == "cpu"
    with dispatch.reference_only():
        assert dispatch.backend_name(device) == "reference"
    assert dispatch.backend_name(device) == "cpu"


def test_kernels_lie_in_one_file() -> None:
    """numba's cache looks at the file a kernel is in, and at no other."""
    source = Path(compiled.__file__).read_text()
    for path in Path(compiled.__file__).parent.glob("*.py"):
        assert path.name == "compiled.py" or "njit" not in path.read_text()
    assert "from lorakit.kernels.cpu import threads" in source
