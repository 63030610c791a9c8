"""What an adapter folder of PEFT's holds, layer by layer.

Layer names here are those of the file: module names, and for two parameters of one experts module
`<module>.base_layer` (the inner one) and `<module>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lorakit.adapters.arithmetic.fitted import FittedStart
from lorakit.adapters.arithmetic.low_rank import LowRank
from lorakit.adapters.stored_tensors import StoredTensor, read_tensors
from lorakit.recipe import LoraConfig

Layout = Literal["linear", "embedding", "experts"]

DOWN: dict[Layout, str] = {
    "linear": "lora_A.weight",
    "embedding": "lora_embedding_A",
    "experts": "lora_A.weight",
}
UP: dict[Layout, str] = {
    "linear": "lora_B.weight",
    "embedding": "lora_embedding_B",
    "experts": "lora_B.weight",
}
BIAS = "lora_B.bias"
MAGNITUDE = "lora_magnitude_vector"


@dataclass(frozen=True)
class SavedLayer:
    """What the file holds of one adapted layer.

    Attributes:
        layout: how the factors are stored.
        r: rank.
        scaling: alpha / r, with rsLoRA alpha / sqrt(r).
        shape: (E, O, I) of the change.
        tensors: {suffix: stored tensor}.
    """

    layout: Layout
    r: int
    scaling: float
    shape: tuple[int, int, int]
    tensors: dict[str, StoredTensor]

    @property
    def dtypes(self) -> set[str]:
        """safetensors' names of the factors' dtypes."""
        return {self.tensors[DOWN[self.layout]].dtype, self.tensors[UP[self.layout]].dtype}

    @property
    def num_parameters(self) -> int:
        return sum(tensor.shape.numel() for tensor in self.tensors.values())


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter folder.

    Attributes:
        folder: that holds the two files.
        values: adapter_config.json.
        config: its fields that a LoraConfig has, checked.
        layers: {layer name: what is stored of it}.
        replaced: {tensor name: stored} of values that stand in for the base's own: modules trained
            in full, biases, token rows.
        copies: {tensor name: stored} of embeddings of the base, saved unchanged.
        start: what is known of where its training began.
    """

    folder: Path
    values: Mapping[str, Any]
    config: LoraConfig
    layers: dict[str, SavedLayer]
    replaced: dict[str, StoredTensor]
    copies: dict[str, StoredTensor]
    start: FittedStart

    @property
    def name(self) -> str:
        """The folder's name, of a run's adapter the run's; paths are private to a machine."""
        folder = self.folder.resolve()
        return folder.parent.name if folder.name == "adapter" else folder.name

    @property
    def uses_dora(self) -> bool:
        return any(MAGNITUDE in layer.tensors for layer in self.layers.values())

    @property
    def init(self) -> bool | str:
        """`init_lora_weights`."""
        return self.values.get("init_lora_weights", True)

    def low_rank(self, name: str) -> LowRank:
        """The low-rank part of one layer, in float64.

        Raises:
            AdapterError: NaN or infinite values.
        """
        layer = self.layers[name]
        tensors = read_tensors(self.folder, layer.tensors)
        num_experts, out_features, in_features = layer.shape
        down, up = tensors[DOWN[layer.layout]].double(), tensors[UP[layer.layout]].double()
        bias = tensors.get(BIAS)
        # The expert is the slowest index of lora_A's rows and the fastest of lora_B's columns.
        return LowRank(
            up.view(out_features, layer.r, num_experts).permute(2, 0, 1),
            down.view(num_experts, layer.r, in_features),
            layer.scaling,
            None if bias is None else bias.double(),
        )

    def magnitude(self, name: str) -> torch.Tensor:
        """DoRA's magnitudes of one layer (O,), as stored."""
        stored = self.layers[name].tensors[MAGNITUDE]
        return read_tensors(self.folder, {MAGNITUDE: stored})[MAGNITUDE]

    def others(self) -> dict[str, torch.Tensor]:
        """The values of `replaced` and `copies`."""
        return read_tensors(self.folder, self.replaced | self.copies)
