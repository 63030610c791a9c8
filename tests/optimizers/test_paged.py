"""Pages: never more on the device than the budget, every move counted, eviction at any time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorakit.errors import InputError
from lorakit.optimizers import forms
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state import PagedState
from lorakit.optimizers.state_plan import DEFAULT_BUDGET, plan_state
from tests.optimizers import small

pytestmark = pytest.mark.usefixtures("small_pages")
PAGED = [name for name in forms.names() if forms.form(name).PAGED]


def _budget(optim: str, share: float) -> int:
    plan = plan_state(dict(small.model().named_parameters()), optim=optim)
    return max(plan.layout.smallest_budget, int(plan.layout.state_bytes * share))


def _held_bytes(state: PagedState) -> int:
    """Bytes of the tensors that really are on the device, not what the state says."""
    return sum(
        tensor.untyped_storage().nbytes()
        for frame in state._frames.values()
        for tensor in frame.fields.values()
    )


@pytest.mark.parametrize("optim", PAGED)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_the_device_never_holds_more_than_the_budget(optim: str, share: float) -> None:
    model = small.model()
    memory = _budget(optim, share)
    ours = small.optimizer(model, optim, memory=memory)
    state = ours._state
    assert isinstance(state, PagedState) and memory < ours.plan.layout.state_bytes
    held = []
    for step in range(3):
        small.train(model, ours, range(step, step + 1))
        for _ in state.visit(range(len(ours.plan.layout.pages))):
            held.append(_held_bytes(state))
            assert held[-1] == state.resident_bytes <= memory
    assert max(held) <= ours.facts()["peak_bytes"] <= memory
    # Nearly all of it is used.
    assert ours.facts()["peak_bytes"] > memory - max(p.num_bytes for p in ours.plan.layout.pages)


@pytest.mark.parametrize("optim", PAGED)
def test_every_page_that_moves_is_counted(optim: str) -> None:
    model = small.model()
    ours = small.optimizer(model, optim, memory=_budget(optim, 0.1))
    pages = ours.plan.layout.pages
    small.train(model, ours, range(1))
    # Every page came, and went back once it was updated.
    assert ours.facts()["pages_in"] == ours.facts()["pages_out"] == len(pages)
    kept = len(ours._state._frames)
    small.train(model, ours, range(1, 2))
    # The way back begins with the pages that the way there ended with.
    assert ours.facts()["pages_in"] == 2 * len(pages) - kept
    assert ours.facts()["pages_out"] == 2 * len(pages)
    assert 2 <= kept < len(pages) / 5


@pytest.mark.parametrize("optim", PAGED)
def test_a_state_that_fits_stays(optim: str) -> None:
    model = small.model()
    ours = small.optimizer(model, optim)
    assert ours.plan.budget == DEFAULT_BUDGET > ours.plan.layout.state_bytes
    small.train(model, ours, range(3))
    facts = ours.facts()
    assert (facts["pages_in"], facts["pages_out"]) == (len(ours.plan.layout.pages), 0)
    assert facts["peak_bytes"] == ours.plan.resident_bytes == facts["state_bytes"]


@pytest.mark.parametrize("optim", PAGED)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_evicted_pages_come_back_as_they_were(optim: str, share: float) -> None:
    models = [small.model(), small.model()]
    undisturbed, ours = (small.optimizer(m, optim, memory=_budget(optim, share)) for m in models)
    for step in range(4):
        small.train(models[0], undisturbed, range(step, step + 1))
        small.train(models[1], ours, range(step, step + 1))
        before = _held_bytes(ours._state)
        freed = ours.evict(1) if step % 2 else ours.evict()
        assert freed == before - _held_bytes(ours._state) > 0
        assert (ours._state.resident_bytes == 0) == (step % 2 == 0)
    assert ours.facts()["evicted"] > 0 == undisturbed.facts()["evicted"]
    expected = undisturbed.moments()
    for name, tensor in ours.moments().items():
        assert torch.equal(tensor, expected[name]), name
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("optim", [n for n in forms.names() if n not in PAGED])
def test_what_is_not_paged_gives_nothing_up(optim: str) -> None:
    ours = small.optimizer(small.model(), optim)
    assert ours.evict() == 0
    assert ours.facts()["peak_bytes"] == ours.facts()["state_bytes"]


@pytest.mark.parametrize("optim", PAGED)
def test_a_budget_below_two_pages_is_refused(optim: str) -> None:
    parameters = {"a": nn.Parameter(torch.zeros(100, 1000))}
    smallest = plan_state(parameters, optim=optim).layout.smallest_budget
    with pytest.raises(InputError, match=rf"{smallest - 1:,} bytes.*possible: {smallest:,} bytes"):
        plan_state(parameters, optim=optim, memory=smallest - 1)
    AdamW(parameters, plan_state(parameters, optim=optim, memory=smallest))


@pytest.mark.gpu
@pytest.mark.parametrize("optim", PAGED)
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_on_a_gpu_paged_is_unpaged_bit_for_bit(optim: str, share: float) -> None:
    twin = optim.removeprefix("paged_").replace("_32bit", "_torch")
    values = []
    for name in (twin, optim):
        model = small.model().cuda()
        memory = _budget(optim, share) if name == optim else None
        ours = small.optimizer(model, name, memory=memory)
        small.train(model, ours, range(6))
        ours.evict()
        small.train(model, ours, range(6, 8))
        values.append({n: t.cpu() for n, t in (ours.parameters() | ours.moments()).items()})
    for name, tensor in values[0].items():
        assert torch.equal(tensor, values[1][name]), name
