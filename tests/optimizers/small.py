"""A small model whose parameters fall into every group, and a few steps of training it."""

from __future__ import annotations

import torch
from torch import nn

from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.groups import Group, decayed_names
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import plan_state

RULE = AdamWRule(betas=(0.8, 0.95), epsilon=1e-6, weight_decay=0.1)


def model() -> nn.Module:
    """Two matrices of 5,600 elements, which have 8-bit moments; vectors, which have not."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(70, 80), nn.LayerNorm(80), nn.Tanh(), nn.Linear(80, 70))


def groups(of: nn.Module, *, lr_factor: float = 1.0) -> dict[str, Group]:
    """Decay as in training; the last layer learns at its own rate."""
    decayed = decayed_names(of)
    return {
        name: Group(name in decayed, lr_factor if name.startswith("3.") else 1.0)
        for name, _ in of.named_parameters()
    }


def optimizer(
    of: nn.Module, optim: str, *, memory: int | None = None, lr_factor: float = 1.0
) -> AdamW:
    """An optimizer of all parameters of a model."""
    parameters = dict(of.named_parameters())
    plan = plan_state(parameters, groups(of, lr_factor=lr_factor), optim=optim, memory=memory)
    return AdamW(parameters, plan, rule=RULE)


def loss(of: nn.Module, step: int) -> torch.Tensor:
    """The loss of a step's batch."""
    generator = torch.Generator().manual_seed(step)
    parameter = next(of.parameters())
    inputs = torch.randn(11, 70, generator=generator, dtype=parameter.dtype)
    return of(inputs.to(parameter.device)).square().mean() * 30


def train(of: nn.Module, ours: AdamW, steps: range, *, spoiled: int | None = None) -> list[bool]:
    """Take steps; the gradient of step `spoiled` has a NaN. Whether each took effect."""
    finite = []
    for step in steps:
        ours.zero_grad()
        value = loss(of, step)
        value.backward()
        if step == spoiled:
            gradient = next(of.parameters()).grad
            assert gradient is not None
            gradient.view(-1)[3] = float("nan")
        flags = ours.step(1e-2 / (step + 1), value, max_grad_norm=0.5)
        finite.append(bool(flags.finite))
    return finite


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `parameters` and `moments` returned, by value."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
