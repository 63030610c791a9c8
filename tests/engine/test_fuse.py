"""The fast modules: over every family, loss and gradients are those of transformers' modules."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from lorakit import kernels
from lorakit.adapters.attach import Attached, attach_adapter
from lorakit.base.families import why_not_packed
from lorakit.base.load import load_base
from lorakit.data.examples import Example
from lorakit.data.pack import collate
from lorakit.engine.fuse import fused_modules
from lorakit.engine.modules import FusedAttention, FusedGatedMLP, FusedRMSNorm, Stand
from lorakit.engine.same_code import same_forward
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from lorakit.train.batches import StepBatch
from lorakit.train.modes import training_mode
from lorakit.train.step import backward
from tests import families, tiny
from tests.adapters.bases import perturb
from tests.tolerances import GRADIENT_FLOAT32, LOSS_FLOAT32, relative_error

LENGTHS = (5, 17, 1 + 1, 30)


def batch(model: PreTrainedModel) -> StepBatch:
    """Four examples, packed where the family can be."""
    generator = torch.Generator().manual_seed(3)
    examples = []
    for length in LENGTHS:
        ids = torch.randint(5, 300, (length,), generator=generator).int().numpy()
        weights = torch.ones(length)
        weights[0] = 0
        examples.append(Example(ids, weights.numpy()))
    packed = why_not_packed(model.config) is None
    micro_batch = collate(examples, list(range(len(examples))), packed=packed, pad_id=0)
    total = float(sum(example.loss_weights.sum() for example in examples))
    return StepBatch(0, [micro_batch], total, sum(LENGTHS), int(total))


def loss_and_gradients(
    model: PreTrainedModel, adapter: Attached, *, reference: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    way = kernels.reference_only() if reference else contextlib.nullcontext()
    with way, training_mode(model, adapter):
        loss = backward(model, adapter, batch(model), seed=0)
    found = {name: parameter.grad for name, parameter in adapter.parameters().items()}
    for parameter in adapter.parameters().values():
        parameter.grad = None
    return loss, found


def errors(
    gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Of each gradient, relative to its norm or to a tenth of the whole gradient's."""
    whole = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    return {
        name: float((gradient - expected[name]).norm() / max(expected[name].norm(), 0.1 * whole))
        for name, gradient in gradients.items()
    }


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("model_type", sorted(families.FAMILIES))
def test_the_same_loss_and_gradients(model_type: str, use_dora: bool) -> None:
    model = families.build(model_type)
    # Experts are adapted by plain LoRA alone, and see other rows than tokens.
    adapter = attach_adapter(model, LoraConfig(r=4, use_dora=use_dora, target_parameters=[]))
    perturb(model)
    loss, gradients = loss_and_gradients(model, adapter, reference=False)
    expected_loss, expected = loss_and_gradients(model, adapter, reference=True)
    assert relative_error(loss, expected_loss) < LOSS_FLOAT32
    found = errors(gradients, expected)
    if max(found.values()) < GRADIENT_FLOAT32:
        return
    # A few tiny random models amplify rounding. How far, is seen in the reference itself when its
    # weights are off by their last bit.
    weights = [p for p in model.parameters() if not p.requires_grad]
    exact = [p.detach().clone() for p in weights]
    amplified = []
    for _ in range(3):
        for parameter, value in zip(weights, exact, strict=True):
            parameter.data.copy_(value * (1 + 2**-23 * torch.randn_like(value)))
        rounded = loss_and_gradients(model, adapter, reference=True)[1]
        amplified.append(max(errors(rounded, expected).values()))
    assert max(found.values()) < max(amplified)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_with_dropout(quantization: str, tmp_path) -> None:
    folder = tiny.folder(tmp_path / "llama", "llama")
    model, _ = load_base(folder, quantization=quantization)
    adapter = attach_adapter(model, LoraConfig(r=4, lora_dropout=0.4))
    perturb(model)
    loss, gradients = loss_and_gradients(model, adapter, reference=False)
    expected_loss, expected = loss_and_gradients(model, adapter, reference=True)
    assert relative_error(loss, expected_loss) < LOSS_FLOAT32
    for name, gradient in gradients.items():
        assert relative_error(gradient, expected[name]) < 2 * GRADIENT_FLOAT32, name


def test_rows_without_dropout_keys_are_refused() -> None:
    model = families.build("llama")
    adapter = attach_adapter(model, LoraConfig(r=4, lora_dropout=0.4))
    with fused_modules(model):
        model.train()
        adapter.dropout.rows = torch.zeros(3, dtype=torch.int64)
        for path, width in (("mlp", 32), ("self_attn", 32)):
            module = model.get_submodule(f"model.layers.0.{path}")
            with pytest.raises(AdapterError, match="cannot be keyed"):
                module(torch.zeros(1, 5, width))


@pytest.mark.parametrize("path", ["mlp", "mlp.up_proj", "self_attn", "input_layernorm"])
def test_a_hook_is_called(path: str) -> None:
    model = families.build("llama")
    attach_adapter(model, LoraConfig(r=4))
    seen: list[str] = []
    module = model.get_submodule(f"model.layers.0.{path}")
    module.register_forward_hook(lambda *_: seen.append(path))
    with fused_modules(model):
        model(torch.arange(5, 9)[None])
    assert seen == [path]


def test_names_and_modules_are_kept_and_come_back() -> None:
    model = families.build("qwen3")
    attach_adapter(model, LoraConfig(r=4))
    names = [name for name, _ in model.named_parameters()]
    modules = dict(model.named_modules())
    with fused_modules(model) as count:
        assert [name for name, _ in model.named_parameters()] == names
        stands = [m for m in model.modules() if isinstance(m, Stand)]
        kinds = {type(stand) for stand in stands}
        assert kinds == {FusedRMSNorm, FusedGatedMLP, FusedAttention} and len(stands) == count
    assert dict(model.named_modules()) == modules


def test_a_stand_follows_the_mode() -> None:
    model = families.build("llama")
    with fused_modules(model):
        model.train()
        assert all(module.training for module in model.modules())
        stands = [m for m in model.modules() if isinstance(m, Stand)]
        assert stands and all(stand.original[0].training for stand in stands)
    model.eval()
    assert not any(module.training for module in model.modules())


def test_trained_norms_get_their_gradients() -> None:
    model = families.build("llama")
    adapter = attach_adapter(model, LoraConfig(r=4, modules_to_save=["model.norm"]))
    _, gradients = loss_and_gradients(model, adapter, reference=False)
    trained = [name for name in gradients if "norm" in name]
    assert trained and all(gradients[name].abs().max() > 0 for name in trained)


def test_a_model_generates_with_its_cache_as_before() -> None:
    model = families.build("llama")
    ids = torch.arange(5, 12)[None]
    expected = model.generate(ids, max_new_tokens=8, do_sample=False)
    with fused_modules(model):
        assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False), expected)


class OtherNorm(nn.Module):
    """Llama's but for one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states):
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + 2 * self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


def test_only_the_very_same_code_is_replaced() -> None:
    assert same_forward(Qwen3RMSNorm, LlamaRMSNorm)
    assert not same_forward(OtherNorm, LlamaRMSNorm)
    assert not same_forward(LlamaMLP, LlamaRMSNorm)
    model = nn.Sequential(OtherNorm())
    with fused_modules(model) as count:
        assert count == 0
