"""The fused functions with Triton's kernels in them, forward and backward, and what the host does
meanwhile. Marked `gpu`; test_triton.py runs them all in Triton's interpreter as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lorakit import kernels
from lorakit.kernels import dispatch
from tests.kernels.op_arguments import ONLY_ON_CPUS, arguments_of_any, launches_of
from tests.kernels.test_fused import FORMS, gated, gradients, plainly, projection
from tests.tolerances import OP, relative_error

# What a device cannot do without the host knowing the outcome.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal"}
# The interpreter computes with numpy, which warns of what floats are made to do.
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:(overflow|invalid|divide):RuntimeWarning"),
]


@pytest.mark.parametrize("form", FORMS)
def test_projections(form: str, dispatched: torch.device) -> None:
    layers = [moved(projection(one, 33, 9, 40, torch.float32), dispatched) for one in (form, form)]
    check(
        lambda x: kernels.projections(x, layers),
        lambda x: [plainly(x, layer) for layer in layers],
        torch.randn(40, 33, device=dispatched),
        layers,
    )


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


@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
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


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(dispatch.OPS.keys() - ONLY_ON_CPUS))
def test_one_launch_and_no_waiting(name: str, ops, device, interpreted, monkeypatch) -> None:
    op = getattr(ops, name)
    given = arguments_of_any(name, (8, 70), device, torch.bfloat16)
    op(*given)  # tables of code values come to the device at first use
    seen = launches_of(op, monkeypatch)
    if not interpreted:
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoWaiting() if interpreted else nullcontext():
            op(*given)
    finally:
        if not interpreted:
            torch.cuda.set_sync_debug_mode("default")
    assert len(seen) == 1
