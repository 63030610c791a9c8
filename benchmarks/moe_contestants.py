"""The contestants of `moe.py`: the same model, adapter and rows, computed in four ways.

E experts, T tokens, D hidden size, R rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from contest import Memory
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.qwen3_moe import Qwen3MoeConfig, Qwen3MoeForCausalLM

from lorakit.adapters.attach import attach_adapter, attached
from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.save import save_adapter
from lorakit.adapters.store import load_adapter
from lorakit.base.config import model_config, read_config
from lorakit.base.load import load_weights
from lorakit.data.examples import Example
from lorakit.data.pack import collate
from lorakit.optimizers.optimizer import AdamW
from lorakit.recipe import LoraConfig
from lorakit.train.batches import StepBatch
from lorakit.train.modes import training_mode
from lorakit.train.step import take_step

NUM_ROWS = 4
VOCABULARY = 4096
LEARNING_RATE, MAX_GRAD_NORM = 2e-4, 1.0
B_DEVIATION = 0.02
HEAD_SIZE = 64
# As in Qwen3-30B-A3B: an expert is narrower than the hidden size, 768 of 2,048.
EXPERT_WIDTH = 0.375


def prepare(task: dict[str, Any]) -> None:
    """Write the model and the adapter that all start from; its B is not zero."""
    hidden = task["hidden"]
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden,
        moe_intermediate_size=int(EXPERT_WIDTH * hidden),
        num_hidden_layers=task["layers"],
        num_attention_heads=max(1, hidden // HEAD_SIZE),
        num_key_value_heads=1,
        num_experts=task["experts"],
        num_experts_per_tok=task["top"],
        decoder_sparse_step=1,
        max_position_embeddings=task["tokens"],
        norm_topk_prob=True,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(Path(task["folder"]) / "model")
    adapter = attach_adapter(model, LoraConfig(r=task["rank"]))
    for name, parameter in adapter.parameters().items():
        if "lora_B" in name:
            parameter.data.normal_(std=B_DEVIATION)
    save_adapter(model, Path(task["folder"]) / "adapter")


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Load, take steps, and tell."""
    memory = Memory()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (NUM_ROWS, task["tokens"] // NUM_ROWS), generator=generator)
    with ExitStack() as stack:
        make = ours if task["do"] == "lorakit" else theirs
        step = make(task, ids, stack)
        losses = [step()]
        memory.forget()
        started, cpu_started = time.perf_counter(), time.process_time()
        losses += [step() for _ in range(task["steps"])]
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu_started
    return {
        "tokens": ids.numel() * task["steps"],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "losses": [float(loss) for loss in losses],
        "peak_bytes": memory.peak(),
    }


def ours(task: dict[str, Any], ids: torch.Tensor, stack: ExitStack) -> Callable[[], torch.Tensor]:
    """One step of lorakit; what lasts as long as the training goes on the stack."""
    model = our_model(task)
    adapter = attached(model)
    stack.enter_context(training_mode(model, adapter))
    if task["what"] == "block":
        return block_step(model, ids)
    optimizer = AdamW(adapter.parameters())
    weights = torch.ones(ids.shape[1])
    weights[0] = 0
    rows = [Example(row.int().numpy(), weights.numpy()) for row in ids]
    packed = collate(rows, range(NUM_ROWS), packed=True, pad_id=0)
    trained = len(packed.targets)
    batch = StepBatch(0, [packed], float(trained), ids.numel(), trained)

    def step() -> torch.Tensor:
        result = take_step(
            *(model, adapter, optimizer, batch),
            learning_rate=LEARNING_RATE,
            max_grad_norm=MAX_GRAD_NORM,
            seed=0,
        )
        return result.numbers[0]

    return step


def our_model(task: dict[str, Any]) -> PreTrainedModel:
    """Loaded as lorakit stores it, with the starting adapter."""
    folder = Path(task["folder"])
    model, _ = load_weights(
        folder / "model",
        model_config(read_config(folder / "model" / "config.json")),
        quantization=task["storage"],
        double_quantization=True,
        block_size=64,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    load_adapter(model, folder / "adapter")
    return model


def theirs(task: dict[str, Any], ids: torch.Tensor, stack: ExitStack) -> Callable[[], torch.Tensor]:
    """One step of a peer."""
    folder = Path(task["folder"])
    if task["do"] == "loop":
        model: Any = looping(our_model(task | {"storage": "none"}))
    else:
        plain = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        if task["do"] == "peft_eager":
            plain.set_experts_implementation("eager")
        adapted = PeftModel.from_pretrained(plain, str(folder / "adapter"), is_trainable=True)
        model = adapted.get_base_model()
    model.train()
    if task["what"] == "block":
        return block_step(model, ids)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        return loss.detach()

    return step


def block_step(model: Any, ids: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The first layer's experts with their router on random inputs, forward and backward."""
    block = model.model.layers[0].mlp
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(1, ids.numel(), model.config.hidden_size, generator=generator)

    def step() -> torch.Tensor:
        for parameter in block.parameters():
            parameter.grad = None
        out = block(hidden.clone().requires_grad_())
        loss = (out[0] if isinstance(out, tuple) else out).square().mean()
        loss.backward()
        return loss.detach()

    return step


def looping(model: PreTrainedModel) -> PreTrainedModel:
    """The adapted model with a plain loop over experts in the place of lorakit's experts."""
    for module in list(model.modules()):
        child = module._modules.get("experts")
        if child is not None and isinstance(child._modules.get("down_proj"), AdaptedExperts):
            module.experts = LoopedExperts(child)
    return model


class LoopedExperts(nn.Module):
    """transformers' `Qwen3MoeExperts.forward`, with a low-rank product beside each expert's."""

    def __init__(self, experts: Any) -> None:
        super().__init__()
        self.num_experts, self.act_fn = experts.num_experts, experts.act_fn
        self.gate_up, self.down = experts.gate_up_proj, experts.down_proj

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        out = torch.zeros_like(hidden_states)
        with torch.no_grad():
            mask = nn.functional.one_hot(top_k_index, num_classes=self.num_experts).permute(2, 1, 0)
            hit = (mask.sum(dim=(-1, -2)) > 0).nonzero()
        for (expert,) in hit.tolist():
            place, token = torch.where(mask[expert])
            gate, up = self._product(self.gate_up, hidden_states[token], expert).chunk(2, dim=-1)
            y = self._product(self.down, self.act_fn(gate) * up, expert)
            out.index_add_(0, token, y * top_k_weights[token, place, None])
        return out

    @staticmethod
    def _product(layer: AdaptedExperts, x: torch.Tensor, expert: int) -> torch.Tensor:
        down_ERI, up_EOR = layer.adapter.by_expert(x.dtype)
        weight = layer.base_layer.stored.dequantize_part(expert)
        change = nn.functional.linear(nn.functional.linear(x, down_ERI[expert]), up_EOR[expert])
        return nn.functional.linear(x, weight) + layer.scaling * change
