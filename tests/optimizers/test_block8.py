"""8-bit moments: the documented algorithm, bitsandbytes' AdamW8bit, and a quarter of the bytes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lorakit.kernels.reference.dynamic8 import BLOCK_SIZE, dynamic_map
from lorakit.optimizers import forms
from lorakit.optimizers.codecs.block8 import Block8
from lorakit.optimizers.state_plan import plan_state
from tests import tolerances
from tests.optimizers import small

ENCODED = [name for name in forms.names() if isinstance(forms.form(name).CODEC, Block8)]
STEPS = 12


class _Simulated:
    """AdamW with block-wise 8-bit moments as the paper writes it: float64, one tensor at a time."""

    def __init__(self, parameter: torch.Tensor, *, decays: bool) -> None:
        self.values = parameter.detach().double().flatten()
        self._decay = small.RULE.weight_decay if decays else 0.0
        self._is_whole = parameter.dim() == 1
        self.moments = [torch.zeros_like(self.values) for _ in range(2)]

    def step(self, grad: torch.Tensor, number: int, learning_rate: float) -> None:
        beta1, beta2 = small.RULE.betas
        grad = grad.double().flatten()
        mean = beta1 * self.moments[0] + (1 - beta1) * grad
        square = beta2 * self.moments[1] + (1 - beta2) * grad**2
        unbiased = square / (1 - beta2**number)
        self.values *= 1 - learning_rate * self._decay
        self.values -= (
            learning_rate * mean / (1 - beta1**number) / (unbiased.sqrt() + small.RULE.epsilon)
        )
        if not self._is_whole:
            mean, square = self._kept(mean, signed=True), self._kept(square, signed=False)
        self.moments = [mean, square]

    def _kept(self, moment: torch.Tensor, *, signed: bool) -> torch.Tensor:
        table = dynamic_map(torch.device("cpu"), signed=signed).double()
        kept = []
        for block in moment.split(BLOCK_SIZE):
            absmax = block.abs().max()
            codes = (block[:, None] / absmax - table).abs().argmin(dim=1)
            kept.append(table[codes] * absmax)
        return torch.cat(kept)


def _gradients(model: nn.Module, steps: int) -> list[dict[str, torch.Tensor]]:
    """Gradients that do not depend on the optimizer: what differs is the update alone."""
    gradients = []
    for step in range(steps):
        model.zero_grad()
        small.loss(model, step).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    return gradients


@pytest.mark.parametrize("optim", ENCODED)
def test_equals_the_documented_algorithm_in_float64(optim: str) -> None:
    model = small.model()
    groups = small.groups(model)
    gradients = _gradients(copy.deepcopy(model), STEPS)
    simulated = {n: _Simulated(p, decays=groups[n].decays) for n, p in model.named_parameters()}
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    ours = small.optimizer(model, optim)
    for number, grads in enumerate(gradients, 1):
        for name, parameter in model.named_parameters():
            parameter.grad.copy_(grads[name])
            simulated[name].step(grads[name], number, 1e-2)
        ours.step(1e-2, torch.zeros(()))
    for name, parameter in model.named_parameters():
        way = simulated[name].values.view(parameter.shape) - start[name]
        # A value at a midpoint may go to either code: that is all that may differ.
        error = tolerances.relative_error(parameter.detach() - start[name], way)
        assert error < (1e-2 if parameter.dim() > 1 else 1e-4), name


def test_bitsandbytes_goes_the_same_way() -> None:
    # Its CPU backend rounds small values to a grid first (see kernels/reference/dynamic8.py), so
    # it cannot be equal; parameters that it keeps in 32 bits are.
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = small.model()
    peer_model, exact_model, start = (copy.deepcopy(model) for _ in range(3))
    groups = small.groups(model)
    peer = bitsandbytes.optim.AdamW8bit(
        [
            {"params": [p], "weight_decay": small.RULE.weight_decay if groups[n].decays else 0.0}
            for n, p in peer_model.named_parameters()
        ],
        lr=1e-2,
        betas=small.RULE.betas,
        eps=small.RULE.epsilon,
    )
    gradients = _gradients(copy.deepcopy(model), STEPS)
    ours, exact = small.optimizer(model, "adamw_8bit"), small.optimizer(exact_model, "adamw_torch")
    for grads in gradients:
        for name, parameter in peer_model.named_parameters():
            parameter.grad = grads[name].clone()
        peer.step()
        for optimized, own in ((ours, model), (exact, exact_model)):
            for name, parameter in own.named_parameters():
                parameter.grad.copy_(grads[name])
            optimized.step(1e-2, torch.zeros(()))
    for (name, p), q, reference, p_0 in zip(
        model.named_parameters(),
        peer_model.parameters(),
        exact_model.parameters(),
        start.parameters(),
        strict=True,
    ):
        way = [(one - p_0).detach() for one in (p, q, reference)]
        if p.numel() < 4096:
            assert tolerances.relative_error(way[0], way[1]) < tolerances.OP[torch.float32] * 10
            continue
        assert peer.state[q]["state1"].dtype == torch.uint8, name
        assert tolerances.relative_error(way[0], way[1]) < 5e-3
        # Both lose more to the 8 bits than they differ.
        assert 5e-3 < tolerances.relative_error(way[0], way[2]) < 5e-2


@pytest.mark.parametrize("optim", ENCODED)
def test_the_state_takes_at_most_30_percent_of_float32_s(optim: str) -> None:
    # A and B of a layer of 1024 x 1024 at rank 16, with a magnitude as DoRA has it.
    parameters = {
        f"{layer}.{name}": torch.empty(shape, device="meta")
        for layer in range(4)
        for name, shape in {"A": (16, 1024), "B": (1024, 16), "magnitude": (1024,)}.items()
    }
    for device_type in ("cpu", "cuda"):
        plans = {
            name: plan_state(parameters, optim=name, device_type=device_type).layout.state_bytes
            for name in ("adamw_torch", optim)
        }
        assert plans["adamw_torch"] == 8 * sum(p.numel() for p in parameters.values())
        assert plans[optim] <= 0.3 * plans["adamw_torch"]


@pytest.mark.usefixtures("small_pages")
def test_bytes_are_those_of_the_tensors_and_vectors_are_whole() -> None:
    model = small.model()
    ours = small.optimizer(model, "adamw_8bit")
    small.train(model, ours, range(2))
    moments = ours.moments()
    for name, parameter in model.named_parameters():
        is_whole = parameter.dim() == 1
        assert moments[f"exp_avg.{name}"].dtype == (torch.float32 if is_whole else torch.uint8)
        assert (f"exp_avg_sq_absmax.{name}" in moments) == (not is_whole)
    named = sum(t.numel() * t.element_size() for t in moments.values())
    # Nothing but the zeros between parameters is unnamed: less than a block for each matrix.
    assert 0 <= ours.facts()["state_bytes"] - named < 2 * 2 * BLOCK_SIZE
    assert named == 2 * 2 * (5600 + 4 * 22) + 8 * (80 + 80 + 80 + 70)
