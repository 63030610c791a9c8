"""LoRA on the experts of a layer: one pair of factors for each expert of one projection.

    y = W[e] x + scaling * B[e] A[e] x        for a row x that is sent to expert e

In PEFT's file (its ParamWrapper) the factors of all experts are two matrices: `lora_A` (E * R, I)
with the expert as its slowest index, `lora_B` (O, R * E) with the expert as its fastest. PEFT adds
`scaling * B[e] @ A[e]` to the weight of every expert in every forward pass; here only the rows that
an expert sees pass its factors, and no change of a weight is ever made.

E experts, O out_features, I in_features, R rank, S rows sorted by expert.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lorakit import kernels
from lorakit.adapters.contract import AdaptedFacts, AdaptedModule, ParameterMerge, Switch
from lorakit.adapters.merge_error import NUM_PROBES, PROBE_SEED, relative_difference
from lorakit.adapters.plain import plain_experts
from lorakit.base.frozen_experts import FrozenExperts, parameter_name


class ExpertFactors(nn.Module):
    """The trained factors of all experts, float32, as PEFT's file has them.

    Args:
        num_experts: E.
        width, height: columns of `lora_A`, rows of `lora_B`.
        r: R.
        crosswise: Llama 4's class does not say that it stores (E, I, O), so that PEFT reads the
            parameter as (E, O, I): its `lora_A` is on the outputs, its `lora_B` on the inputs.
    """

    def __init__(
        self,
        num_experts: int,
        width: int,
        height: int,
        r: int,
        *,
        crosswise: bool,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.num_experts, self.r, self.crosswise = num_experts, r, crosswise
        shape_A, shape_B = (num_experts * r, width), (height, r * num_experts)
        self.lora_A = nn.Parameter(torch.zeros(shape_A, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(shape_B, dtype=torch.float32, device=device))

    @torch.no_grad()
    def fill(self, expert: int, lora_A: torch.Tensor, lora_B: torch.Tensor) -> None:
        """Set one expert's factors: (R, width) and (height, R)."""
        self.lora_A.view(self.num_experts, self.r, -1)[expert].copy_(lora_A)
        self.lora_B.view(-1, self.r, self.num_experts)[..., expert].copy_(lora_B)

    def by_expert(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """(E, R, I), what narrows a row, and (E, O, R), what widens it again."""
        a_ERW = self.lora_A.to(dtype).view(self.num_experts, self.r, -1)
        b_EHR = self.lora_B.to(dtype).view(-1, self.r, self.num_experts).permute(2, 0, 1)
        if self.crosswise:
            return b_EHR.transpose(1, 2), a_ERW.transpose(1, 2)
        return a_ERW, b_EHR


class AdaptedExperts(AdaptedModule):
    """One projection of a layer's experts with LoRA; stands where its parameter, or a
    `FrozenExperts`, stood.

    Args:
        name: path of the place in the model.
        base_layer: the frozen projection.
        r, scaling: of every expert.
        depth: how many adapted parameters of the same module PEFT's file has after this one.
        device: where the factors are made.
        switch: shared by all adapted modules of the model.
    """

    def __init__(
        self,
        name: str,
        base_layer: FrozenExperts,
        r: int,
        scaling: float,
        *,
        depth: int,
        device: torch.device,
        switch: Switch,
    ) -> None:
        super().__init__(name, switch)
        self.base_layer = base_layer
        self.scaling = scaling
        self._depth = depth
        sizes = base_layer.in_features, base_layer.out_features
        crosswise = base_layer.layout.transposed and not base_layer.layout.tells
        self.adapter = ExpertFactors(
            base_layer.num_experts,
            *(sizes[::-1] if crosswise else sizes),
            r,
            crosswise=crosswise,
            device=device,
        )

    @property
    def file_name(self) -> str:
        owner = self.target_parameter.rpartition(".")[0]
        return owner + ".base_layer" * self._depth

    @property
    def target_parameter(self) -> str:
        return parameter_name(self.name, self.base_layer.layout)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight in the layout of the parameter: merged, or frozen while disabled."""
        dense = self.base_layer.stored.dequantize(device=self.adapter.lora_A.device)
        return self.merged_weight(dense) if self.switch.on else dense

    def forward(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        if not self.switch.on:
            return self.base_layer(x, counts)
        down_ERI, up_EOR = self.adapter.by_expert(x.dtype)
        if not (kernels.autocasts(x) or kernels.is_reference_forced()):
            base = self.base_layer
            return kernels.grouped_projection(
                *(x, base.stored, down_ERI, up_EOR, self.scaling, counts),
                out_features=base.out_features,
                transposed=base.layout.transposed,
            )
        y = self.base_layer(x, counts)
        low_SR = kernels.grouped_linear(x, down_ERI, counts) * self.scaling
        return y + kernels.grouped_linear(low_SR, up_EOR, counts)

    @torch.no_grad()
    def merged_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """The dense weight that computes the same without the adapter, in the parameter's layout.

        Same dtype as `weight`, computed in float32 (float64 for a float64 weight), an expert at a
        time; without a gradient.
        """
        wide = torch.promote_types(weight.dtype, torch.float32)
        down_ERI, up_EOR = self.adapter.by_expert(wide)
        merged = torch.empty_like(weight)
        for part, out, down, up in zip(weight, merged, down_ERI, up_EOR, strict=True):
            change = (up @ down) * self.scaling
            out.copy_(part.to(wide) + (change.t() if self.base_layer.layout.transposed else change))
        return merged

    @property
    def facts(self) -> AdaptedFacts:
        """Shape (E, O, I), rank and scaling."""
        base = self.base_layer
        shape = base.num_experts, base.out_features, base.in_features
        return AdaptedFacts(shape, self.adapter.r, self.scaling)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {f"adapter.{name}": p for name, p in self.adapter.named_parameters()}

    def peft_names(self) -> dict[str, str]:
        return {"lora_A.weight": "adapter.lora_A", "lora_B.weight": "adapter.lora_B"}

    def plain_module(self) -> nn.Module | nn.Parameter:
        return plain_experts(self.base_layer.layout, self.weight)

    def merges(self) -> dict[str, ParameterMerge]:
        layout = self.base_layer.layout
        return {layout.parameter: ParameterMerge(self.merged_weight, error=self._merge_error)}

    @torch.no_grad()
    def _merge_error(self, weight: torch.Tensor, merged: torch.Tensor) -> float:
        """As `error_on_probes`, over all experts."""
        down_ERI, up_EOR = self.adapter.by_expert(torch.float64)
        generator = torch.Generator().manual_seed(PROBE_SEED)
        probes = torch.randn(NUM_PROBES, self.base_layer.in_features, generator=generator).double()
        found, exact = [], []
        for parts in zip(weight, merged, down_ERI, up_EOR, strict=True):
            base, sums, down, up = (part.double() for part in parts)
            if self.base_layer.layout.transposed:
                base, sums = base.t(), sums.t()
            found.append(probes @ sums.t())
            exact.append(probes @ base.t() + self.scaling * (probes @ down.t()) @ up.t())
        return relative_difference(torch.stack(found), torch.stack(exact))
