"""The laws of every optimizer: equal to torch's up to what its state loses, reproducible to the
bit, unmoved by non-finite gradients, the same paged and not.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lorakit.errors import CheckpointError, InputError
from lorakit.optimizers import forms
from lorakit.optimizers.codecs.whole import WHOLE_FLOATS
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import plan_state
from tests import tolerances
from tests.optimizers import small
from tests.tolerances import relative_error

pytestmark = pytest.mark.usefixtures("small_pages")
EXACT = [name for name in forms.names() if forms.form(name).CODEC is WHOLE_FLOATS]
ENCODED = [name for name in forms.names() if name not in EXACT]
PAGED = [name for name in forms.names() if forms.form(name).PAGED]


def _unpaged(optim: str) -> str:
    codec = forms.form(optim).CODEC
    same = [n for n in forms.names() if type(forms.form(n).CODEC) is type(codec)]
    (twin,) = [n for n in same if not forms.form(n).PAGED]
    return twin


def _torch_s(model: nn.Module, *, lr_factor: float) -> torch.optim.AdamW:
    own = small.groups(model, lr_factor=lr_factor)
    return torch.optim.AdamW(
        [
            {
                "params": [parameter],
                "weight_decay": small.RULE.weight_decay if own[name].decays else 0.0,
                "factor": own[name].lr_factor,
            }
            for name, parameter in model.named_parameters()
        ],
        betas=small.RULE.betas,
        eps=small.RULE.epsilon,
    )


def _train_peer(
    model: nn.Module, peer: torch.optim.Optimizer, steps: range, max_grad_norm: float | None
) -> list[float]:
    norms = []
    for step in steps:
        peer.zero_grad()
        small.loss(model, step).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm or float("inf"))
        for group in peer.param_groups:
            group["lr"] = 1e-2 / (step + 1) * group["factor"]
        peer.step()
        norms.append(norm.item())
    return norms


@pytest.mark.parametrize("optim", EXACT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("lr_factor", [1.0, 16.0])
def test_equals_torch_adamw(
    optim: str, dtype: torch.dtype, max_grad_norm: float | None, lr_factor: float
) -> None:
    model = small.model().to(dtype)
    peer_model = copy.deepcopy(model)
    peer = _torch_s(peer_model, lr_factor=lr_factor)
    ours = small.optimizer(model, optim, lr_factor=lr_factor)
    for step in range(12):
        ours.zero_grad()
        loss = small.loss(model, step)
        loss.backward()
        flags = ours.step(1e-2 / (step + 1), loss, max_grad_norm=max_grad_norm)
        (norm,) = _train_peer(peer_model, peer, range(step, step + 1), max_grad_norm)
        assert flags.finite and flags.grad_norm.item() == pytest.approx(norm, rel=1e-4)
    for p, q in zip(model.parameters(), peer_model.parameters(), strict=True):
        assert tolerances.relative_error(p.detach(), q.detach()) < tolerances.OP[dtype]


@pytest.mark.parametrize("optim", ENCODED)
def test_what_encoding_loses_is_a_small_part_of_the_way(optim: str) -> None:
    model = small.model()
    start, peer_model = copy.deepcopy(model), copy.deepcopy(model)
    small.train(model, small.optimizer(model, optim), range(12))
    _train_peer(peer_model, _torch_s(peer_model, lr_factor=1.0), range(12), 0.5)
    for (name, p), q, p_0 in zip(
        model.named_parameters(), peer_model.parameters(), start.parameters(), strict=True
    ):
        error = tolerances.relative_error((p - p_0).detach(), (q - p_0).detach())
        # Small parameters differ only by the gradients that the others lead to.
        assert 0 < error < 0.1, name


@pytest.mark.parametrize("optim", forms.names())
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_non_finite_step_and_all_later_ones_change_nothing(
    optim: str, bad: float, where: str
) -> None:
    model = small.model()
    ours = small.optimizer(model, optim)
    small.train(model, ours, range(3))
    before = small.copies(ours.parameters() | ours.moments())
    for step in (3, 4):
        ours.zero_grad()
        loss = small.loss(model, step)
        loss.backward()
        if step == 3 and where == "gradient":
            next(model.parameters()).grad.view(-1)[3] = bad
        elif step == 3:
            loss = loss * bad
        flags = ours.step(1e-2, loss, max_grad_norm=1.0)
        assert not flags.finite
    for name, tensor in (ours.parameters() | ours.moments()).items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("optim", forms.names())
def test_repeated_and_restored_runs_are_the_same_bits(optim: str) -> None:
    whole, again, halves = (copy.deepcopy(m) for m in [small.model()] * 3)
    for model in (whole, again):
        small.train(model, small.optimizer(model, optim), range(6))
    first_half = small.optimizer(halves, optim)
    small.train(halves, first_half, range(4))
    stored = [small.copies(t) for t in (first_half.parameters(), first_half.moments())]
    continued = small.model()
    second_half = small.optimizer(continued, optim)
    small.train(continued, second_half, range(2))  # what is restored replaces all of it
    second_half.restore(4, *stored)
    small.train(continued, second_half, range(4, 6))
    for other in (again, continued):
        for p, q in zip(whole.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("optim", forms.names())
@pytest.mark.parametrize("stored_by", forms.names())
def test_only_a_state_of_the_same_codec_is_restored(optim: str, stored_by: str) -> None:
    model = small.model()
    ours = small.optimizer(small.model(), optim)
    before = small.copies(ours.moments())
    other = small.optimizer(model, stored_by)
    small.train(model, other, range(2))
    if _unpaged(optim) == _unpaged(stored_by):
        ours.restore(2, other.parameters(), other.moments())
        assert ours.num_steps == 2
        return
    with pytest.raises(CheckpointError, match=r"exp_avg.* there and .* here"):
        ours.restore(2, other.parameters(), other.moments())
    assert ours.num_steps == 0
    for name, tensor in ours.moments().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("optim", PAGED)
@pytest.mark.parametrize("share", ["smallest", 0.1, 0.5, 1.0])
@pytest.mark.parametrize("spoiled", [None, 3])
def test_paged_is_unpaged_bit_for_bit(optim: str, share: float | str, spoiled: int | None) -> None:
    plain, paged = small.model(), small.model()
    resident = small.optimizer(plain, _unpaged(optim), lr_factor=4.0)
    smallest = small.optimizer(small.model(), optim).plan.layout.smallest_budget
    state_bytes = int(resident.facts()["state_bytes"])
    memory = smallest if share == "smallest" else int(state_bytes * share)
    ours = small.optimizer(paged, optim, memory=memory, lr_factor=4.0)
    steps = range(5)
    finite = small.train(plain, resident, steps, spoiled=spoiled)
    assert small.train(paged, ours, steps, spoiled=spoiled) == finite
    assert finite == [spoiled is None or step < spoiled for step in steps]
    for stored in (AdamW.parameters, AdamW.moments):
        expected = stored(resident)
        for name, tensor in stored(ours).items():
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("optim", forms.names())
def test_a_released_model_has_its_own_tensors_and_no_gradient(optim: str) -> None:
    model = small.model()
    ours = small.optimizer(model, optim)
    small.train(model, ours, range(2))
    values = [p.detach().clone() for p in model.parameters()]
    ours.release()
    for parameter, value in zip(model.parameters(), values, strict=True):
        assert torch.equal(parameter, value) and parameter.grad is None
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4


@pytest.mark.parametrize("optim", forms.names())
def test_a_smaller_dtype_trains_through_a_float32_master(optim: str) -> None:
    bias = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    weight = nn.Parameter(torch.ones(64, 64))
    parameters = {"weight": weight, "bias": bias}
    ours = AdamW(parameters, plan_state(parameters, optim=optim))
    for _ in range(10):
        ours.zero_grad()
        loss = bias.float().sum() + weight.sum()
        loss.backward()
        ours.step(1e-4, loss)
    # Ten updates of 1e-4 are each lost in bfloat16 around 1, but not their sum in the master.
    assert ours.parameters()["bias"].tolist() == pytest.approx([0.999] * 3, abs=1e-6)
    assert torch.equal(bias, ours.parameters()["bias"].bfloat16()) and weight.dtype == torch.float32


@pytest.mark.parametrize("optim", forms.names())
def test_micro_batches_of_a_smaller_dtype_are_summed_in_float32(optim: str) -> None:
    """In bfloat16 each addition would round: 2 % off after 512 of them."""
    gradients = torch.randn(512, 256, generator=torch.Generator().manual_seed(0)).add(1).bfloat16()
    bias = nn.Parameter(torch.zeros(256, dtype=torch.bfloat16))
    parameters = {"weight": nn.Parameter(torch.ones(64, 64)), "bias": bias}
    AdamW(parameters, plan_state(parameters, optim=optim))  # one that is gone takes nothing
    ours = AdamW(parameters, plan_state(parameters, optim=optim))
    place = ours.plan.layout.places["bias"]
    found: list[torch.Tensor] = []

    def look(flat: torch.Tensor) -> None:
        found.append(flat[place.start : place.stop].clone())

    exact = gradients.double().sum(dim=0)
    for _ in range(2):  # a step later nothing is left of the first
        ours.zero_grad()
        for gradient in gradients:
            (bias * gradient).sum().backward()
        ours.step(0.0, bias.sum(), reduce_gradient=look)
        assert relative_error(found[-1], exact) < 1e-6
        assert torch.equal(bias.grad, found[-1].bfloat16())  # what whoever looks at it finds


@pytest.mark.parametrize("optim", forms.names())
def test_nothing_to_train_is_refused(optim: str) -> None:
    with pytest.raises(InputError, match="no trainable parameter"):
        plan_state({}, optim=optim)
    with pytest.raises(InputError, match="no trainable parameter"):
        AdamW({})


@pytest.mark.parametrize("optim", ENCODED)
def test_an_encoding_that_would_change_nothing_is_refused(optim: str) -> None:
    with pytest.raises(InputError, match=r"vectors, embeddings and .*: a, b\. Use .*adamw_torch"):
        plan_state({"a": torch.zeros(9000), "b": torch.zeros(3, 85)}, optim=optim)
    assert plan_state({"a": torch.zeros(4, 64)}, optim=optim).layout.state_bytes == 2 * (256 + 4)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(InputError, match=r"'sgd' does not exist; possible: adamw_8bit, adamw_to"):
        plan_state({"a": torch.zeros(3)}, optim="sgd")
