"""The model that is pretrained, its float32 master weights and their optimizer.

The forward and backward pass run in bfloat16 (1.7 times as fast as float32 on a core with
AVX512-BF16, 20 times as slow on one without); the weights that learn are float32 and are rounded
into the model after each step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.masking_utils import AttentionMaskInterface

from lorakit.builtin.blocks import Batch
from lorakit.builtin.tokenizer import CONTEXT
from lorakit.kernels import linear_cross_entropy

ATTENTION = "lorakit_documents"


def config(tokenizer: PreTrainedTokenizerBase, **shape: int) -> LlamaConfig:
    """The built-in base: 3.75 million parameters, the head tied to the embedding.

    Args:
        tokenizer: gives the size of the vocabulary and the ids of the pad and the end token.
        shape: sizes that differ, named as in `LlamaConfig`.
    """
    values: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 448,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.02,
        **(values | shape),
    )


def new_model(settings: LlamaConfig, *, seed: int) -> LlamaForCausalLM:
    """A float32 model with random weights, whose attention stays inside each document."""
    AttentionInterface.register(ATTENTION, _attend_inside_documents)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    torch.manual_seed(seed)
    return LlamaForCausalLM._from_config(settings, attn_implementation=ATTENTION)


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean negative log-likelihood (float32) of the tokens of a batch, each within its document."""
    hidden = model.model(
        input_ids=batch.tokens[None],
        position_ids=batch.positions()[None],
        lengths=batch.lengths,
        use_cache=False,
    ).last_hidden_state[0]
    targets, weights = batch.targets()
    head = model.lm_head
    total, _ = linear_cross_entropy(
        hidden, head, targets, weights, parameters=(head.weight,), chunk_rows=1024
    )
    return total / weights.sum()


def _attend_inside_documents(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    lengths: list[int],
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each document by itself; `split`, as slices make backward dear."""
    outputs = [
        nn.functional.scaled_dot_product_attention(
            q, k, v, scale=scaling, is_causal=True, enable_gqa=True
        )
        for q, k, v in zip(
            query.split(lengths, dim=2),
            key.split(lengths, dim=2),
            value.split(lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """No (T, T) mask is made: documents attend one by one."""


class MasterWeights:
    """float32 copies of a model's weights, trained by Muon (matrices) and AdamW (all others)."""

    def __init__(
        self, model: LlamaForCausalLM, *, matrices: str, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        """Take the master copies, then round the model to `dtype`.

        Args:
            model: float32; its weights become `dtype`.
            matrices: "muon" or "adamw", what trains the weight matrices of the layers.
            dtype: of the forward and backward pass.
        """
        self.master = {
            name: nn.Parameter(weight.detach().clone()) for name, weight in model.named_parameters()
        }
        self._model = model
        nn.Module.to(model, dtype)  # transformers' own `to` is typed without its arguments
        layers = [weight for name, weight in self.master.items() if ".layers." in name]
        hidden = [weight for weight in layers if weight.ndim == 2]
        others = [w for w in self.master.values() if all(w is not h for h in hidden)]
        betas = (0.9, 0.95)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, betas=betas, weight_decay=0.0)
        ]
        if matrices == "muon":
            self.optimizers.append(
                torch.optim.Muon(hidden, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
            )
        else:
            self.optimizers.append(torch.optim.AdamW(hidden, betas=betas, weight_decay=0.1))

    def step(self, learning_rate: float) -> float:
        """Update the master weights with the model's gradients; returns the gradient's norm."""
        for name, weight in self._model.named_parameters():
            self.master[name].grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        norm = nn.utils.clip_grad_norm_(self.master.values(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self._round()
        return float(norm)

    def state(self) -> dict[str, torch.Tensor]:
        """Master weights and optimizer moments, by name."""
        names = {id(weight): name for name, weight in self.master.items()}
        tensors = {f"weight/{name}": weight.detach() for name, weight in self.master.items()}
        for optimizer in self.optimizers:
            for weight, moments in optimizer.state.items():
                for key, value in moments.items():
                    tensors[f"{key}/{names[id(weight)]}"] = torch.as_tensor(value)
        return tensors

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        with torch.no_grad():
            for name, weight in self.master.items():
                weight.copy_(tensors[f"weight/{name}"])
        for optimizer in self.optimizers:
            for weight in optimizer.param_groups[0]["params"]:
                name = next(n for n, w in self.master.items() if w is weight)
                optimizer.state[weight] = {
                    key.removesuffix(f"/{name}"): value
                    for key, value in tensors.items()
                    if key.endswith(f"/{name}") and not key.startswith("weight/")
                }
        self._round()

    def unround(self) -> None:
        """Put the float32 master weights themselves into the model: training is over."""
        self._model.float()
        self._round()

    def _round(self) -> None:
        with torch.no_grad():
            for name, weight in self._model.named_parameters():
                weight.copy_(self.master[name])
