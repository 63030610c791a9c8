"""The maths of each kind, against float64, finite differences and its own merged weight."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lorakit.adapters import kinds
from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.contract import Kind, NormCache
from lorakit.base.frozen_linear import FrozenLinear, frozen
from lorakit.base.storages.nf4 import quantize
from lorakit.recipe import LoraConfig
from tests.adapters.bases import KINDS, Load, logits, perturb, token_ids
from tests.tolerances import OP, relative_error

# Odd numbers on purpose.
OUT, IN, RANK = 13, 9, 3
SCALING = 1.7


def layer(
    kind: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Kind, FrozenLinear]:
    """A frozen layer with bias and a kind beside it, every parameter moved away from its start."""
    torch.manual_seed(seed)
    base = frozen(nn.Linear(IN, OUT).requires_grad_(False)).to(dtype)
    adapter = kinds.kind(kind)(
        IN, OUT, RANK, SCALING, device=torch.device("cpu"), norm_cache=NormCache()
    ).to(dtype)
    with torch.no_grad():
        adapter.lora_A.normal_()
        adapter.lora_B.normal_()
        adapter.begin(base)
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return adapter, base


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_merged_weight(kind: str) -> None:
    adapter, base = layer(kind, torch.float64)
    x = torch.randn(2, 5, IN, dtype=torch.float64)
    expected = nn.functional.linear(x, adapter.merged_weight(base.weight), base.bias)
    assert relative_error(adapter(x, base, x), expected) < OP[torch.float64]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_forward_equals_float64(kind: str, dtype: torch.dtype) -> None:
    adapter, base = layer(kind)
    base = base.to(dtype)
    exact, exact_base = copy.deepcopy(adapter).double(), copy.deepcopy(base).double()
    if kind == "dora":
        with torch.no_grad():
            adapter.weight_norm_squared.copy_(exact_base.weight.square().sum(dim=1))
            exact.weight_norm_squared.copy_(exact_base.weight.square().sum(dim=1))
    x = torch.randn(7, IN).to(dtype)
    out = adapter(x, base, x)
    assert out.dtype == dtype
    assert relative_error(out, exact(x.double(), exact_base, x.double())) < OP[dtype]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_double(kind: str) -> None:
    adapter, base = layer(kind, torch.float64)
    names = [name for name, _ in adapter.named_parameters()]
    x = torch.randn(4, IN, dtype=torch.float64, requires_grad=True)
    low_rank_x = torch.randn(4, IN, dtype=torch.float64, requires_grad=True)
    if kind == "dora":
        # The norm is a constant to the gradient (section 4.3 of the paper): held fixed here.
        adapter.norm_cache.allowed = True

    def run(x: torch.Tensor, low_rank_x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(adapter, parameters, (x, base, low_rank_x))

    run(x, low_rank_x, *adapter.parameters())
    assert torch.autograd.gradcheck(run, (x, low_rank_x, *adapter.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weight_passes_gradients_like_forward(kind: str) -> None:
    adapter, base = layer(kind, torch.float64)
    x = torch.randn(6, IN, dtype=torch.float64)
    seed = torch.randn(6, OUT, dtype=torch.float64)
    by_forward = torch.autograd.grad(adapter(x, base, x), list(adapter.parameters()), seed)
    merged = nn.functional.linear(x, adapter.merged_weight(base.weight), base.bias)
    by_merged = torch.autograd.grad(merged, list(adapter.parameters()), seed)
    for one, other in zip(by_forward, by_merged, strict=True):
        assert relative_error(one, other) < OP[torch.float64]


@pytest.mark.parametrize("packed", [False, True])
def test_dora_norm_equals_the_norm_of_the_sum(packed: bool) -> None:
    torch.manual_seed(0)
    base = frozen(nn.Linear(70, 41).requires_grad_(False))
    if packed:
        base = FrozenLinear(quantize(base.weight), base.bias)
    adapter = kinds.kind("dora")(70, 41, 8, 0.5, device=torch.device("cpu"), norm_cache=NormCache())
    nn.init.normal_(adapter.lora_A)
    nn.init.normal_(adapter.lora_B)
    adapter.begin(base)
    delta = adapter.lora_B.double() @ adapter.lora_A.double() * adapter.scaling
    direct = (base.weight.double() + delta).norm(dim=1)
    assert relative_error(adapter.row_norms(base.weight), direct) < 1e-6
    assert torch.equal(adapter.lora_magnitude_vector, adapter.row_norms(base.weight))


def test_dora_leaves_rows_of_zeros_alone() -> None:
    linear = nn.Linear(IN, OUT, bias=False).requires_grad_(False)
    linear.weight[3] = 0
    base = frozen(linear)
    adapter = kinds.kind("dora")(
        IN, OUT, RANK, 1.0, device=torch.device("cpu"), norm_cache=NormCache()
    )
    nn.init.normal_(adapter.lora_A)
    adapter.begin(base)
    x = torch.randn(4, IN)
    out = adapter(x, base, x)
    assert torch.equal(out, base(x))
    out.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in adapter.parameters())


def test_dropout_reaches_the_low_rank_branch_only(load: Load) -> None:
    for kind in KINDS:
        adapter, base = layer(kind)
        x = torch.randn(4, IN)
        nothing = adapter(x, base, torch.zeros_like(x)) - base.bias
        rows = nothing / base.product(x)
        assert relative_error(rows, rows[:1].expand_as(rows)) < 1e-4, kind


def test_norms_are_cached_only_when_a_loop_says_so(load: Load) -> None:
    model = load("llama")
    adapter = attach_adapter(model, LoraConfig(use_dora=True, r=4))
    perturb(model)

    def move() -> None:
        with torch.no_grad():
            for module in adapter.modules.values():
                module.adapter.lora_B.mul_(1.5)

    stale = logits(model)
    move()
    fresh = logits(model)
    assert not torch.equal(stale, fresh)
    with adapter.cached_norms():
        cached = logits(model)
        assert torch.equal(cached, fresh)
        move()
        with_old_norm = logits(model)
        adapter.parameters_changed()
        with_new_norm = logits(model)
    assert relative_error(with_old_norm, with_new_norm) > 1e-4
    assert torch.equal(logits(model), with_new_norm)
    with adapter.cached_norms():
        assert torch.equal(logits(model), with_new_norm)


def test_norms_are_the_same_under_autocast(load: Load) -> None:
    adapter, base = layer("dora")
    exact = adapter.row_norms(base.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapter.row_norms(base.weight), exact)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(load: Load, kind: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = load("llama")
        adapter = attach_adapter(model, LoraConfig(kind=kind, r=4, lora_dropout=0.3))
        perturb(model)
        model.train()
        ids = token_ids()
        adapter.dropout.rows = torch.arange(ids.numel())
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with adapter.cached_norms():
            model(ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in adapter.parameters().values()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
