"""Dropout of the low-rank branch: keyed by token when a loop says so, torch's own otherwise."""

from __future__ import annotations

import pytest
import torch

from lorakit.adapters.attach import Attached, attach_adapter
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from tests.adapters.bases import Load, logits, perturb, token_ids
from tests.tolerances import relative_error


@pytest.fixture
def trained(load: Load) -> tuple[torch.nn.Module, Attached]:
    model = load("llama")
    adapter = attach_adapter(model, LoraConfig(r=4, lora_dropout=0.4))
    perturb(model)
    model.train()
    return model, adapter


def test_keys_decide_the_mask(trained) -> None:
    model, adapter = trained
    keys = torch.arange(token_ids().numel())
    adapter.dropout.rows = keys
    first = logits(model)
    assert torch.equal(logits(model), first)
    adapter.dropout.rows = keys + 1000
    assert not torch.equal(logits(model), first)


def test_the_mask_follows_the_token_not_its_place(trained) -> None:
    model, adapter = trained
    ids = token_ids(rows=2)
    keys = torch.arange(ids.numel()).view_as(ids)
    with torch.no_grad():
        adapter.dropout.rows = keys.flatten()
        together = model(ids).logits
        adapter.dropout.rows = keys.flip(0).flatten()
        swapped = model(ids.flip(0)).logits
        adapter.dropout.rows = keys[1]
        alone = model(ids[1:]).logits
    assert relative_error(swapped.flip(0), together) < 1e-6
    assert relative_error(alone[0], together[1]) < 1e-6


def test_modules_have_different_masks(trained) -> None:
    _, adapter = trained
    adapter.dropout.rows = torch.arange(8)
    x = torch.ones(8, 64)
    names = list(adapter.modules)
    masks = [adapter.dropout.apply(x, name) for name in names]
    assert all(not torch.equal(masks[0], mask) for mask in masks[1:])


def test_without_keys_torch_draws(trained) -> None:
    model, _ = trained
    assert not torch.equal(logits(model), logits(model))
    torch.manual_seed(5)
    first = logits(model)
    torch.manual_seed(5)
    assert torch.equal(logits(model), first)


def test_no_dropout_in_eval(trained) -> None:
    model, adapter = trained
    model.eval()
    adapter.dropout.rows = torch.arange(3)  # not looked at
    assert torch.equal(logits(model), logits(model))


def test_other_rows_than_tokens_are_refused(trained) -> None:
    model, adapter = trained
    adapter.dropout.rows = torch.arange(5)
    with pytest.raises(AdapterError, match=r"layers\.0\.self_attn\.q_proj.*22 rows.*5 tokens"):
        logits(model)
