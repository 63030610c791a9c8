"""Every Triton kernel against the reference: compiled where there is a CUDA device (marked `gpu`),
and in every run with Triton's interpreter on the CPU.

The interpreter has to be chosen before the kernels are defined, so the same cases run in a process
of their own; the report of one that fails is that process's report.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lorakit import kernels
from lorakit.kernels import dispatch
from lorakit.kernels.reference.four_bit import CODE_VALUES, four_bit_quantize, quantize_scales
from tests.kernels.op_arguments import ARGUMENTS, EXACT, in_a_tuple, in_float64
from tests.kernels.test_fused import FORMS, gated, gradients, plainly, projection
from tests.tolerances import OP, relative_error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Fewer rows than the CPU's: the interpreter takes milliseconds for each program.
SHAPES = [(0, 5), (1, 1), (3, 7), (17, 64), (9, 129), (2, 4099), (260, 17)]
# What a device cannot do without the host knowing the outcome.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal"}

on_device = pytest.mark.gpu
# The interpreter computes with numpy, which warns of what floats are made to do.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid|divide):RuntimeWarning")


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " skipped" not in done.stdout


@pytest.fixture
def ops():
    """The backend's ops, whatever dispatch would choose."""
    pytest.importorskip("triton", reason="triton is not installed")
    from lorakit.kernels.triton import ops

    return ops


@pytest.fixture
def device(ops) -> torch.device:
    """Where kernels run; every op dispatched for that device is Triton's."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture
def dispatched(ops, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The same device, with the backend behind dispatch."""
    if INTERPRETED:
        monkeypatch.setattr(dispatch, "_backend", lambda device_type: ops)
    return device


def on(device: torch.device, arguments: tuple, dtype: torch.dtype | None = None) -> list:
    """The arguments on the device, floating-point tensors in `dtype`."""
    return [
        a if not torch.is_tensor(a) else a.to(device, dtype if a.is_floating_point() else None)
        for a in arguments
    ]


def arguments_of(name: str, shape: tuple[int, int], device: torch.device, dtype: torch.dtype):
    arguments = on(device, ARGUMENTS[name](*shape), dtype)
    if name == "rms_norm_backward":
        arguments[2] = arguments[2].float()  # as rms_norm gives it
    return arguments


def arguments_of_any(name: str, shape: tuple[int, int], device: torch.device, dtype: torch.dtype):
    """Of the ops that are tested for bits, too."""
    count = shape[0] * shape[1]
    if name == "dequantize_scales":
        return on(device, quantize_scales(torch.rand(count)))
    if name == "four_bit_dequantize":
        codes, absmax = four_bit_quantize(torch.randn(count), "nf4", 64)
        scales, *nested = on(device, quantize_scales(absmax))
        weight = codes.to(device), scales, "nf4", torch.Size([count]), 64
        return [*weight, dtype, tuple(nested)]
    return arguments_of(name, shape, device, dtype)


def watched(
    op: Callable, monkeypatch: pytest.MonkeyPatch, launch: Callable | None = None
) -> list[tuple[tuple, dict]]:
    """The launches of `op` from now on: their arguments. `launch` stands in for the real one."""
    module = sys.modules[op.__module__]
    seen = []
    go = launch or module.launch

    def note(*arguments: object, **options: object) -> None:
        seen.append((arguments, options))
        go(*arguments, **options)

    monkeypatch.setattr(module, "launch", note)
    return seen


@on_device
def test_every_op_is_served(ops) -> None:
    assert ARGUMENTS.keys() | EXACT == dispatch.OPS.keys() == set(ops.__all__)


@on_device
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


@on_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_other_layouts(name: str, dtype, ops, device) -> None:
    """Every tensor with its memory in another order."""
    arguments = arguments_of(name, (33, 18), device, dtype)
    strided = [a.mT.contiguous().mT if torch.is_tensor(a) and a.ndim > 1 else a for a in arguments]
    expected = in_a_tuple(getattr(ops, name)(*arguments))
    for ours, wanted in zip(in_a_tuple(getattr(ops, name)(*strided)), expected, strict=True):
        assert torch.equal(ours, wanted)


@on_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary_turns_back(dtype, ops, device) -> None:
    x, grad = torch.randn(2, 37, 5, 20, device=device, dtype=dtype)
    cos, sin = (torch.randn(37, 14, device=device, dtype=dtype) for _ in range(2))
    wide = x.double().requires_grad_()
    y = dispatch.OPS["rotary"](wide, cos.double(), sin.double())
    (expected,) = torch.autograd.grad(y, wide, grad.double())
    assert relative_error(ops.rotary(grad, cos, sin, backward=True), expected) < OP[dtype]


@on_device
def test_offsets_beyond_32_bits(ops, device) -> None:
    """A view whose rows lie 2**30 apart: the third begins at number 2**31."""
    space = torch.empty(2**31 + 64, dtype=torch.bfloat16, device=device)
    x = space.as_strided((3, 2, 8), (2**30, 8, 1))
    x.copy_(torch.randn(3, 2, 8))
    cos, sin = (torch.randn(3, 8, device=device, dtype=torch.bfloat16) for _ in range(2))
    assert torch.equal(ops.rotary(x, cos, sin), ops.rotary(x.contiguous(), cos, sin))


@on_device
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


@on_device
@pytest.mark.parametrize("count", [1, 255, 256, 257, 70_001])
def test_scales_to_the_same_bits(count: int, ops, device) -> None:
    quantized = on(device, quantize_scales(torch.rand(count) + 0.1))
    expected = dispatch.OPS["dequantize_scales"](*quantized)
    assert torch.equal(ops.dequantize_scales(*quantized), expected)


@on_device
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


@on_device
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


@on_device
def test_logits_of_minus_infinity(ops, device) -> None:
    """Whole tiles of them, as a head with a padded vocabulary gives."""
    logits = torch.randn(3, 9000, device=device)
    logits[:, :5000] = float("-inf")
    targets = torch.tensor([5000, 7000, 8999], device=device)
    actual = ops.cross_entropy(logits, targets)
    expected = dispatch.OPS["cross_entropy"](*in_float64((logits, targets)))
    for ours, exact in zip(actual, expected, strict=True):
        assert relative_error(ours, exact) < OP[torch.float32]


@on_device
def test_a_target_outside_the_vocabulary_is_not_read(ops, device) -> None:
    nll, grad = ops.cross_entropy(
        torch.zeros(2, 4, device=device), torch.tensor([4, -1], device=device)
    )
    assert nll.isnan().all() and grad.isfinite().all()


@on_device
def test_cross_entropy_without_a_gradient(ops, device) -> None:
    logits, targets = torch.randn(5, 70, device=device), torch.arange(5, device=device)
    nll, grad = ops.cross_entropy(logits, targets, needs_grad=False)
    assert grad is None and torch.equal(nll, ops.cross_entropy(logits, targets)[0])


@on_device
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


@on_device
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_other_dtypes_are_the_reference_s_to_do(name: str, ops, device) -> None:
    arguments = in_float64(tuple(on(device, ARGUMENTS[name](5, 6))))
    actual = in_a_tuple(getattr(ops, name)(*arguments))
    for ours, exact in zip(actual, in_a_tuple(dispatch.OPS[name](*arguments)), strict=True):
        assert torch.equal(ours, exact)


# The fused functions with these kernels in them: forward and backward.


@on_device
@pytest.mark.parametrize("form", FORMS)
def test_projections(form: str, dispatched: torch.device) -> None:
    layers = [moved(projection(one, 33, 9, 40, torch.float32), dispatched) for one in (form, form)]
    check(
        lambda x: kernels.projections(x, layers),
        lambda x: [plainly(x, layer) for layer in layers],
        torch.randn(40, 33, device=dispatched),
        layers,
    )


@on_device
@pytest.mark.parametrize("form", FORMS)
def test_gated_mlp(form: str, dispatched: torch.device) -> None:
    sizes = [(8, 20), (8, 20), (20, 8)]
    layers = [moved(projection(form, *size, 11, torch.float32), dispatched) for size in sizes]
    check(
        lambda x: [kernels.gated_mlp(x, *layers)],
        lambda x: [gated(x, *layers)],
        torch.randn(11, 8, device=dispatched),
        layers,
    )


def moved(layer: kernels.Projection, device: torch.device) -> kernels.Projection:
    """The same layer on the device, its trained tensors leaves there."""

    def there(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.detach().to(device).requires_grad_(value.requires_grad)
        if isinstance(value, kernels.Dropped):
            return kernels.Dropped(value.row_keys.to(device), value.p)
        return value.to(device) if isinstance(value, nn.Module) else value

    return kernels.Projection(**{name: there(value) for name, value in vars(layer).items()})


def check(ours: Callable, plain: Callable, x: torch.Tensor, layers: list) -> None:
    x.requires_grad_()
    with torch.no_grad():
        grads = [torch.randn_like(y) for y in plain(x)]
    outputs, found = gradients(ours, x, layers, grads)
    with dispatch.reference_only():
        expected = gradients(plain, x, layers, grads)
    for actual, exact in zip((*outputs, *found), (*expected[0], *expected[1]), strict=True):
        assert relative_error(actual, exact) < OP[torch.float32]


@on_device
@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_cross_entropy(dtype, trains_head: bool, dispatched: torch.device) -> None:
    hidden, head = (torch.randn(*s, device=dispatched, dtype=dtype) for s in [(7, 5), (301, 5)])
    hidden.requires_grad_(), head.requires_grad_(trains_head)
    targets = torch.randint(301, (7,), device=dispatched)
    weights = torch.rand(7, device=dispatched)
    loss, nll = kernels.linear_cross_entropy(
        hidden, lambda x: x @ head.T, targets, weights, parameters=(head,), chunk_rows=3
    )
    loss.backward()
    wide = [t.detach().double().requires_grad_() for t in (hidden, head)]
    exact = nn.functional.cross_entropy(wide[0] @ wide[1].T, targets, reduction="none")
    (exact * weights).sum().backward()
    assert relative_error(nll, exact.detach()) < OP[dtype]
    assert relative_error(hidden.grad, wide[0].grad) < OP[dtype]
    if trains_head:
        assert relative_error(head.grad, wide[1].grad) < OP[dtype]


# What the host does.


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@on_device
@pytest.mark.parametrize("name", sorted(dispatch.OPS))
def test_one_launch_and_no_waiting(name: str, ops, device, monkeypatch) -> None:
    op = getattr(ops, name)
    given = arguments_of_any(name, (8, 70), device, torch.bfloat16)
    op(*given)  # tables of code values come to the device at first use
    seen = watched(op, monkeypatch)
    if not INTERPRETED:
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoWaiting() if INTERPRETED else nullcontext():
            op(*given)
    finally:
        if not INTERPRETED:
            torch.cuda.set_sync_debug_mode("default")
    assert len(seen) == 1


@pytest.mark.parametrize("name", sorted(dispatch.OPS))
def test_compiles_for_a_gpu(name: str, ops, monkeypatch, tmp_path: Path) -> None:
    """To machine code of an H100, which needs no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    op = getattr(ops, name)
    seen = watched(op, monkeypatch, launch=lambda *arguments, **options: None)
    shape = (4, 128 if name == "rotary" else 1 << 14)  # the widest head, the widest hidden state
    op(*arguments_of_any(name, shape, torch.device("cpu"), torch.bfloat16))
    ((kernel, _, *arguments), options) = seen[0]
    compiled = compiled_for_a_gpu(kernel, arguments, options)
    code = compiled.asm["sass"]
    assert "EXIT" in code
    assert "STL" not in code  # no register is spilled
    if name in EXACT | {"keyed_dropout"}:
        # What is added to a product is added to the rounded one, and small numbers stay.
        assert "FFMA" not in code and "FTZ" not in code
    if name not in {"dequantize_scales", "column_dots"}:  # which give float32
        assert "cvt.rn.bf16" in compiled.asm["ptx"]  # the hardware's rounding


def compiled_for_a_gpu(kernel: object, arguments: list, options: dict):
    """What Triton makes of a launch on tensors that lie as PyTorch allocates them."""
    import triton
    from triton.backends.compiler import GPUTarget

    from lorakit.kernels.triton import launching

    types = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int64: "i64", torch.uint8: "u8"}
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | options
    signature, constants, aligned = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
            continue
        if torch.is_tensor(value):
            signature[parameter.name] = f"*{types[value.dtype]}"
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
        if torch.is_tensor(value) or value % 16 == 0:
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    return triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options=launching.compile_options(options["tile"]),
    )


def test_why_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from lorakit.kernels.triton import launching

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert launching.why_unavailable() == "PyTorch finds no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"number {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9 - 2 * index, 0))
    assert launching.why_unavailable() == "number 1 is older than compute capability 8.0"
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert dispatch._why_no_triton() == "triton is not installed (pip install 'lorakit[gpu]')"


def test_without_a_gpu_the_reference_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "_why_no_triton", lambda: "no reason")
    dispatch._backend.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            names = {dispatch.backend_name(torch.device("cuda")) for _ in range(3)}
    finally:
        dispatch._backend.cache_clear()
    assert names == {"reference"}
    assert [r.getMessage() for r in caplog.records] == [
        "no reason, so ops on the GPU run as plain PyTorch"
    ]
