"""What an adapter folder holds: its kind, its layers, and how much each of them changes."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorakit.adapters.arithmetic.low_rank import effective_rank, singular_values
from lorakit.adapters.arithmetic.read import read_saved
from lorakit.adapters.arithmetic.saved import SavedAdapter, SavedLayer
from lorakit.adapters.peft_config import INITS_BESIDE_THE_BASE
from lorakit.adapters.save import PREFIX
from lorakit.adapters.stored_tensors import tensors_path
from lorakit.adapters.token_rows import PEFT_NAME as TOKEN_ROWS
from lorakit.progress import bar


@dataclass(frozen=True)
class LayerInfo:
    """One adapted layer.

    Attributes:
        name: in the file.
        layout: "linear", "embedding" or "experts".
        shape: (O, I) of the weight it changes; of one expert.
        num_experts: 1 but for experts.
        r, scaling: as the config says.
        norm: Frobenius norm of scaling * B A; of a DoRA, the low-rank part alone.
        largest: the largest singular value of it.
        effective_rank: exp of the entropy of its singular values; the mean over experts.
    """

    name: str
    layout: str
    shape: tuple[int, int]
    num_experts: int
    r: int
    scaling: float
    norm: float
    largest: float
    effective_rank: float


@dataclass(frozen=True)
class Spread:
    """Least, median and most of a number over layers."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one name and shape, such as every q_proj."""

    name: str
    shape: tuple[int, int]
    count: int
    r: Spread
    scaling: Spread
    norm: Spread
    effective_rank: Spread


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter folder, described.

    Attributes:
        folder: that holds the two files.
        kind: "lora" or "dora".
        use_rslora, init_lora_weights, lora_bias: as in PEFT's config.
        changes_base: whether loading it changes the base's weights (PiSSA and its kind).
        base_model, revision, task_type, target_modules, target_parameters, modules_to_save,
            trainable_token_indices, bias: as the config says; None where it does not.
        replaced: {tensor name: shape} of what stands in for the base's own values.
        copies: {tensor name: shape} of the base's embeddings, saved unchanged.
        dtypes: {safetensors' name: number of tensors}.
        num_parameters: in the file, copies left out.
        num_bytes: of the file.
        layers: every adapted layer.
    """

    folder: Path
    kind: str
    use_rslora: bool
    init_lora_weights: bool | str
    changes_base: bool
    base_model: str | None
    revision: str | None
    task_type: str | None
    target_modules: list[str] | str | None
    target_parameters: list[str] | None
    modules_to_save: list[str] | None
    trainable_token_indices: Any
    bias: str
    lora_bias: bool
    replaced: dict[str, tuple[int, ...]]
    copies: dict[str, tuple[int, ...]]
    dtypes: dict[str, int]
    num_parameters: int
    num_bytes: int
    layers: list[LayerInfo]

    def groups(self) -> list[LayerGroup]:
        """The layers by the last part of their name and their shape."""
        found: dict[tuple[str, tuple[int, int]], list[LayerInfo]] = {}
        for layer in self.layers:
            found.setdefault((_leaf(layer.name), layer.shape), []).append(layer)
        shapes_of = Counter(leaf for leaf, _ in found)
        return [
            LayerGroup(
                leaf if shapes_of[leaf] == 1 else _leaf(layers[0].name, parts=2),
                shape,
                len(layers),
                Spread.of([layer.r for layer in layers]),
                Spread.of([layer.scaling for layer in layers]),
                Spread.of([layer.norm for layer in layers]),
                Spread.of([layer.effective_rank for layer in layers]),
            )
            for (leaf, shape), layers in sorted(found.items())
        ]

    def to_json(self) -> dict[str, Any]:
        values = asdict(self) | {"folder": str(self.folder)}
        return values | {"groups": [asdict(group) for group in self.groups()]}


def adapter_info(folder: str | os.PathLike[str]) -> AdapterInfo:
    """Describe an adapter folder of PEFT's, or a run's; no base is needed.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors, or one level above.

    Raises:
        AdapterError: not a LoRA or DoRA (by its name), pickled or broken files, NaN.
    """
    saved = read_saved(folder)
    others = {**saved.replaced, **saved.copies}
    saved.others()  # read for what is not finite in them
    dtypes = Counter(t.dtype for layer in saved.layers.values() for t in layer.tensors.values())
    dtypes.update(tensor.dtype for tensor in others.values())
    values = saved.values
    with bar("reading", total=len(saved.layers)) as running:
        layers = []
        for name, layer in saved.layers.items():
            layers.append(_layer_info(saved, name, layer))
            running.advance()
    return AdapterInfo(
        folder=saved.folder,
        kind="dora" if saved.uses_dora else "lora",
        use_rslora=saved.config.use_rslora,
        init_lora_weights=saved.init,
        changes_base=saved.init not in INITS_BESIDE_THE_BASE,
        base_model=values.get("base_model_name_or_path"),
        revision=values.get("revision"),
        task_type=values.get("task_type"),
        target_modules=values.get("target_modules"),
        target_parameters=values.get("target_parameters"),
        modules_to_save=values.get("modules_to_save"),
        trainable_token_indices=values.get("trainable_token_indices"),
        bias=saved.config.bias,
        lora_bias=bool(values.get("lora_bias")),
        replaced={_module_name(name): tuple(t.shape) for name, t in saved.replaced.items()},
        copies={_module_name(name): tuple(t.shape) for name, t in saved.copies.items()},
        dtypes=dict(sorted(dtypes.items())),
        num_parameters=sum(layer.num_parameters for layer in saved.layers.values())
        + sum(tensor.shape.numel() for tensor in saved.replaced.values()),
        num_bytes=tensors_path(saved.folder).stat().st_size,
        layers=layers,
    )


def _layer_info(saved: SavedAdapter, name: str, layer: SavedLayer) -> LayerInfo:
    values = singular_values(saved.low_rank(name))
    num_experts, out_features, in_features = layer.shape
    return LayerInfo(
        name=name,
        layout=layer.layout,
        shape=(out_features, in_features),
        num_experts=num_experts,
        r=layer.r,
        scaling=layer.scaling,
        norm=float(values.norm()),
        largest=float(values.max()),
        effective_rank=statistics.fmean(effective_rank(each) for each in values),
    )


def _module_name(tensor: str) -> str:
    return tensor.removeprefix(PREFIX).removesuffix(f".{TOKEN_ROWS}")


def _leaf(name: str, parts: int = 1) -> str:
    """The last parts of a layer's name that are no number."""
    named = [part for part in name.split(".") if not part.isdigit()]
    if named[-1] == "base_layer":
        parts += 1
    return ".".join(named[-parts:])
