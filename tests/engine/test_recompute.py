"""Levels of recompute: which a budget asks for, what each keeps, and that all compute the same."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached, attach_adapter
from lorakit.base.families import why_not_packed
from lorakit.base.head import backbone_hidden
from lorakit.engine.activations import LayerBytes, layer_bytes
from lorakit.engine.fuse import fused_modules
from lorakit.engine.recompute import RecomputePolicy, can_recompute
from lorakit.errors import ModelError
from lorakit.recipe import LoraConfig
from lorakit.train.modes import training_mode
from tests import families
from tests.adapters.bases import perturb
from tests.engine.test_fuse import batch

LAYERS = [LayerBytes(100, 40, 10), LayerBytes(100, 40, 10), LayerBytes(60, 60, 10)]
ITEMSIZE = 4


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (2600, ["none", "none", "none"]),
        (2599, ["selective", "none", "none"]),
        (2000, ["selective", "none", "none"]),
        (1400, ["selective", "selective", "none"]),
        (1100, ["full", "selective", "none"]),
        (300, ["full", "full", "full"]),
        (0, ["full", "full", "full"]),
    ],
)
def test_levels_follow_from_the_budget(budget: int, expected: list[str]) -> None:
    policy = RecomputePolicy("auto", budget)
    levels = policy.levels(LAYERS, num_tokens=10)
    assert levels == expected
    kept = 10 * sum(getattr(layer, level) for layer, level in zip(LAYERS, levels, strict=True))
    assert kept <= max(budget, 300)


def test_short_micro_batches_keep_everything() -> None:
    policy = RecomputePolicy("auto", 2599)
    assert policy.levels(LAYERS, num_tokens=9) == ["none"] * 3


def kept_bytes(model: PreTrainedModel, adapter: Attached, policy: RecomputePolicy) -> int:
    """Of all tensors that the layers leave for the backward pass, but for parameters."""
    (micro_batch,) = batch(model).micro_batches
    held = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with (
        training_mode(model, adapter, policy) as recompute,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        recompute.prepare(micro_batch.input_ids.numel())
        backbone_hidden(model, micro_batch)
    return sum(storage.nbytes() for place, storage in kept.items() if place not in held)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_fast_modules_keep_what_is_said(model_type: str, use_dora: bool) -> None:
    model = families.build(model_type)
    assert why_not_packed(model.config) is None
    adapter = attach_adapter(model, LoraConfig(r=4, use_dora=use_dora))
    perturb(model)
    with fused_modules(model):
        layers = layer_bytes(model, ITEMSIZE)
    num_tokens = batch(model).micro_batches[0].input_ids.numel()
    for level in ("none", "selective", "full"):
        kept = kept_bytes(model, adapter, RecomputePolicy(level))
        said = num_tokens * sum(getattr(layer, level) for layer in layers)
        # Beside the layers: the last norm, the rotary tables, the attention's number per query.
        rest = (kept - said) / (num_tokens * model.config.hidden_size * ITEMSIZE)
        assert 0 < rest < 3, (level, rest)


@pytest.mark.parametrize("model_type", sorted(families.FAMILIES))
def test_every_family_keeps_less_with_full_recompute(model_type: str) -> None:
    model = families.build(model_type)
    adapter = attach_adapter(model, LoraConfig(r=4, target_parameters=[]))
    perturb(model)
    if not can_recompute(model):
        with (
            pytest.raises(ModelError, match="cannot recompute"),
            training_mode(model, adapter, RecomputePolicy("full")),
        ):
            pass
        return
    none = kept_bytes(model, adapter, RecomputePolicy("auto", 1 << 40))
    assert kept_bytes(model, adapter, RecomputePolicy("auto", 0)) < none


def test_selective_recompute_that_would_change_nothing_is_refused() -> None:
    for model_type, way in (("gpt2", nullcontext()), ("llama", kernels.reference_only())):
        model = families.build(model_type)
        adapter = attach_adapter(model, LoraConfig(r=4))
        refused = pytest.raises(ModelError, match="has none; possible: auto, true, false")
        with way, refused, training_mode(model, adapter, RecomputePolicy("selective")):
            pass
        assert not model.is_activation_checkpointing


@pytest.mark.parametrize("model_type", sorted(families.FAMILIES))
def test_every_family_has_an_estimate(model_type: str) -> None:
    model = families.build(model_type)
    with fused_modules(model):
        assert sum(layer.none for layer in layer_bytes(model, ITEMSIZE)) > model.config.hidden_size
    adapter = attach_adapter(model, LoraConfig(r=4, target_parameters=[]))
    with training_mode(model, adapter, RecomputePolicy("auto", 1)) as recompute:
        recompute.prepare(100)
