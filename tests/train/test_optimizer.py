"""The flat AdamW: equal to torch's, reproducible to the bit, unmoved by non-finite gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from lorakit.errors import InputError
from lorakit.train import optimizer as optimizer_module
from lorakit.train.optimizer import AdamW, decayed_names
from tests import tiny, tolerances


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Several chunks, one of them over the border between decayed and other parameters.
    monkeypatch.setattr(optimizer_module, "CHUNK", 13)


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3))


def _ours(model: nn.Module, *, weight_decay: float = 0.1) -> AdamW:
    return AdamW(
        dict(model.named_parameters()),
        betas=(0.8, 0.95),
        epsilon=1e-6,
        weight_decay=weight_decay,
        decayed=decayed_names(model),
    )


def _loss(model: nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    dtype = next(model.parameters()).dtype
    return model(torch.randn(11, 5, generator=generator, dtype=dtype)).square().mean() * 30


def _train(model: nn.Module, ours: AdamW, steps: range, *, spoiled: int | None = None) -> None:
    for step in steps:
        ours.zero_grad()
        loss = _loss(model, step)
        loss.backward()
        if step == spoiled:
            next(model.parameters()).grad.view(-1)[3] = float("nan")
        ours.step(1e-2 / (step + 1), loss, max_grad_norm=0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_equals_torch_adamw(dtype: torch.dtype, max_grad_norm: float | None) -> None:
    model = _model().to(dtype)
    peer_model = copy.deepcopy(model)
    decayed = decayed_names(model)
    assert decayed == {"0.weight", "3.weight"}
    groups = [
        {
            "params": [p for n, p in peer_model.named_parameters() if (n in decayed) == is_decayed],
            "weight_decay": 0.1 if is_decayed else 0.0,
        }
        for is_decayed in (True, False)
    ]
    peer = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-6)
    ours = _ours(model)
    for step in range(20):
        learning_rate = 1e-2 / (step + 1)
        ours.zero_grad()
        loss = _loss(model, step)
        loss.backward()
        flags = ours.step(learning_rate, loss, max_grad_norm=max_grad_norm)

        peer.zero_grad()
        _loss(peer_model, step).backward()
        norm = nn.utils.clip_grad_norm_(peer_model.parameters(), max_grad_norm or float("inf"))
        for group in peer.param_groups:
            group["lr"] = learning_rate
        peer.step()
        assert flags.finite and flags.grad_norm.item() == pytest.approx(norm.item(), rel=1e-4)
    for p, q in zip(model.parameters(), peer_model.parameters(), strict=True):
        assert tolerances.relative_error(p.detach(), q.detach()) < tolerances.OP[dtype]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_non_finite_step_and_all_later_ones_change_nothing(bad: float, where: str) -> None:
    model = _model()
    ours = _ours(model)
    _train(model, ours, range(3))
    before = {n: t.clone() for n, t in (ours.parameters() | ours.moments()).items()}
    for step in (3, 4):
        ours.zero_grad()
        loss = _loss(model, step)
        loss.backward()
        if step == 3 and where == "gradient":
            next(model.parameters()).grad.view(-1)[3] = bad
        elif step == 3:
            loss = loss * bad
        flags = ours.step(1e-2, loss, max_grad_norm=1.0)
        assert not flags.finite
    for name, tensor in (ours.parameters() | ours.moments()).items():
        assert torch.equal(tensor, before[name]), name


def test_repeated_and_restored_runs_are_the_same_bits() -> None:
    whole, again, halves = (copy.deepcopy(m) for m in [_model()] * 3)
    for model in (whole, again):
        _train(model, _ours(model), range(6))
    first_half = _ours(halves)
    _train(halves, first_half, range(4))
    stored = [
        {name: tensor.clone() for name, tensor in tensors.items()}
        for tensors in (first_half.parameters(), first_half.moments())
    ]
    continued = _model()
    second_half = _ours(continued)
    second_half.restore(4, *stored)
    _train(continued, second_half, range(4, 6))
    for other in (again, continued):
        for p, q in zip(whole.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)


def test_a_released_model_has_its_own_tensors_and_no_gradient() -> None:
    model = _model()
    ours = _ours(model)
    _train(model, ours, range(2))
    values = [p.detach().clone() for p in model.parameters()]
    ours.release()
    for parameter, value in zip(model.parameters(), values, strict=True):
        assert torch.equal(parameter, value) and parameter.grad is None
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4


def test_decay_is_trainer_s(tmp_path) -> None:
    model = tiny.model("gpt2", n_embd=32, n_layer=1, n_head=2)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    named = {name for name, _ in model.named_parameters()}
    assert decayed_names(model) == named & set(trainer.get_decay_parameter_names(model))


def test_a_smaller_dtype_trains_through_a_float32_master() -> None:
    bias = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    weight = nn.Parameter(torch.ones(2))
    ours = AdamW({"weight": weight, "bias": bias})
    for _ in range(10):
        ours.zero_grad()
        loss = (bias.float().sum() + weight.sum()) * 1.0
        loss.backward()
        ours.step(1e-4, loss)
    # Ten updates of 1e-4 are each lost in bfloat16 around 1, but not their sum in the master.
    assert ours.parameters()["bias"].tolist() == pytest.approx([0.999] * 3, abs=1e-6)
    assert torch.equal(bias, ours.parameters()["bias"].bfloat16()) and weight.dtype == torch.float32


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="no trainable parameter"):
        AdamW({})
