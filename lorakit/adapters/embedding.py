"""LoRA on an embedding: every row of the table moves within a space of rank R.

An embedding (V, D) is a linear layer without bias over one-hot inputs, with the weight (D, V). So
a kind is used as it is, with I = V and O = D: row t becomes `W[t] + scaling * B A[:, t]`, and
DoRA's magnitudes belong to the D features, as in PEFT. PEFT's file names the factors
`lora_embedding_A` (R, V) and `lora_embedding_B` (D, R). A starts at zero and B normal: the other
way round than a linear layer, and whatever `init_lora_weights` says. `lora_dropout` does not apply:
its inputs are token ids.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from lorakit.adapters.contract import AdaptedFacts, AdaptedModule, Kind, ParameterMerge, Switch
from lorakit.adapters.merge_error import in_float64, relative_difference
from lorakit.adapters.word_embeddings import scale_of
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.storages.dense import DenseWeight

PEFT_SUFFIXES = {"lora_A.weight": "lora_embedding_A", "lora_B.weight": "lora_embedding_B"}
NUM_PROBES = 64


class AdaptedEmbedding(AdaptedModule):
    """A frozen embedding and the kind that changes it; stands where the embedding stood.

    Parameter names below the module's own name are `adapter.*` (float32, trained) and
    `base_layer.*`.

    Args:
        name: module name in the model.
        base_layer: the embedding; one that `word_embeddings.why_unfit` lets through.
        adapter: the trainable change, with I = V and O = D.
        switch: shared by all adapted modules of the model.
    """

    def __init__(self, name: str, base_layer: nn.Embedding, adapter: Kind, *, switch: Switch):
        super().__init__(name, switch)
        self.base_layer = base_layer.requires_grad_(False)
        self.adapter = adapter
        self.num_embeddings = base_layer.num_embeddings
        self.embedding_dim = base_layer.embedding_dim
        self.padding_idx = base_layer.padding_idx
        self.train(base_layer.training)

    @property
    def facts(self) -> AdaptedFacts:
        """Shape (V, D), rank and scaling."""
        shape = self.num_embeddings, self.embedding_dim
        return AdaptedFacts(shape, self.adapter.r, self.adapter.scaling)

    @property
    def weight(self) -> torch.Tensor:
        """The table (V, D) in use: merged, or the frozen one while disabled."""
        weight = self.base_layer.weight
        return self.adapter.merged_weight(weight.t()).t() if self.switch.on else weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if not self.switch.on:
            return self.base_layer(input_ids)
        rows = nn.functional.embedding(input_ids, self.base_layer.weight)
        # As in PEFT, padding moves with the factors, but sends them no gradient.
        down = nn.functional.embedding(input_ids, self.adapter.lora_A.t(), self.padding_idx)
        adapted = self.adapter.combine(
            rows, down.to(rows.dtype), _as_linear(self.base_layer.weight)
        )
        scale = scale_of(self.base_layer)
        return adapted if scale is None else adapted * scale

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Zero A and normal B, as PEFT starts."""
        if self.adapter.lora_A.is_meta:
            return
        self.adapter.lora_A.zero_()
        normal = torch.randn(self.adapter.lora_B.shape, generator=generator)
        self.adapter.lora_B.copy_(normal)
        self.adapter.begin(_as_linear(self.base_layer.weight))

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {f"adapter.{name}": p for name, p in self.adapter.named_parameters()}

    def kept_tensors(self) -> list[torch.Tensor]:
        return list(self.adapter.buffers())

    def peft_names(self) -> dict[str, str]:
        names = {id(p): name for name, p in self.trained_parameters().items()}
        return {
            PEFT_SUFFIXES.get(suffix, suffix): names[id(parameter)]
            for suffix, parameter in self.adapter.peft_tensors().items()
        }

    def plain_module(self) -> nn.Module:
        weight = self.weight.detach().clone(memory_format=torch.contiguous_format)
        parameter = nn.Parameter(weight)
        return copy.deepcopy(self.base_layer, {id(self.base_layer.weight): parameter})

    def merges(self) -> dict[str, ParameterMerge]:
        def change(weight: torch.Tensor) -> torch.Tensor:
            return self.adapter.merged_weight(weight.t()).t()

        return {"weight": ParameterMerge(change, error=self._merge_error)}

    @torch.no_grad()
    def _merge_error(self, weight: torch.Tensor, merged: torch.Tensor) -> float:
        """On rows spread over the table: the forward pass in float64, not what the merge says."""
        base = _as_linear(weight.double())
        kind = in_float64(self.adapter, base)
        ids = torch.linspace(0, len(weight) - 1, NUM_PROBES).long()
        exact = kind.combine(weight[ids].double(), kind.lora_A.t()[ids], base)
        return relative_difference(merged[ids].double(), exact)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


def _as_linear(weight: torch.Tensor) -> FrozenLinear:
    """The table (V, D) as the linear layer (D, V) that it is, not copied."""
    return FrozenLinear(DenseWeight(weight, transposed=True), fan_in_fan_out=True)
