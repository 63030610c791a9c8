"""Write a result as an adapter folder of PEFT's, whole or not at all."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from lorakit.adapters import own_form
from lorakit.adapters.arithmetic.card import Ingredient, card
from lorakit.adapters.arithmetic.made import MadeLayer
from lorakit.adapters.arithmetic.saved import SavedAdapter
from lorakit.adapters.name_endings import portable_pattern
from lorakit.adapters.peft_config import FILE_NAME, peft_values
from lorakit.adapters.save import PREFIX, TENSORS_FILE_NAME
from lorakit.errors import AdapterError
from lorakit.files import staged_folder, write_atomically
from lorakit.recipe import LoraConfig

MAX_RANK = 4096
# What lies beside an adapter: the tokenizer and template that it was trained with.
BESIDE = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "tekken.json",
    "*.model",
    "chat_template*",
    "generation_config.json",
)


@dataclass(frozen=True)
class Written:
    """A folder that was written.

    Attributes:
        output: the folder.
        method: what was done, in words.
        layers: {layer name: what was written of it}.
        num_parameters: in the file.
        dropped: names of files beside the inputs (tokenizers) that differ, and were left out.
        start_difference: how far the weights that were trained on a quantized base are, in the
            worst layer, from those of this form on it, as a part of the original weights' norm; 0
            where they are the same.
    """

    output: Path
    method: str
    layers: Mapping[str, MadeLayer]
    num_parameters: int
    dropped: list[str]
    start_difference: float

    @property
    def error(self) -> float:
        """Relative error of all layers together (Frobenius)."""
        total = math.hypot(*(layer.norm for layer in self.layers.values()))
        error = math.hypot(*(layer.error for layer in self.layers.values()))
        return error / total if total > 0 else error

    @property
    def worst(self) -> tuple[str, float]:
        """(layer name, relative error) of the layer with the largest one."""
        name = max(self.layers, key=lambda name: self.layers[name].relative_error)
        return name, self.layers[name].relative_error

    def to_json(self) -> dict[str, Any]:
        ranks = [layer.change.rank for layer in self.layers.values()]
        before = [layer.rank_before for layer in self.layers.values()]
        return {
            "output": str(self.output),
            "method": self.method,
            "layers": len(self.layers),
            "parameters": self.num_parameters,
            "rank": {"least": min(ranks), "most": max(ranks)},
            "rank_before": {"least": min(before), "most": max(before)},
            "error": self.error,
            "worst_layer": {"name": self.worst[0], "error": self.worst[1]},
            "start_difference": self.start_difference,
            "dropped_files": self.dropped,
        }


def write_result(
    output: Path,
    sources: Sequence[tuple[float, SavedAdapter]],
    layers: Mapping[str, MadeLayer],
    others: Mapping[str, torch.Tensor],
    *,
    method: str,
    base: str | None,
    use_rslora: bool = False,
) -> Written:
    """Write the result of `sources`.

    Args:
        output: appears by one rename; may not hold anything.
        sources: (weight, adapter), as the README lists them; the first one's options are kept.
        layers: {layer name: what to write}.
        others: {tensor name: value} of what is no low-rank factor.
        method: what was done, in words.
        base: the base model's name for the config.
        use_rslora: the convention that alpha is written in; the function is the same.

    Raises:
        AdapterError: PEFT's format cannot say it.
    """
    layers = _with_common_expert_rank(layers)
    adapters = [adapter for _, adapter in sources]
    values = _config_values(adapters, layers, base=base, use_rslora=use_rslora)
    tensors = {
        f"{PREFIX}{name}.{suffix}": tensor
        for name, layer in layers.items()
        for suffix, tensor in layer.tensors(with_bias=bool(values["lora_bias"])).items()
    } | dict(others)
    beside, dropped = _files_beside([adapter.folder for adapter in adapters])
    num_parameters = sum(tensor.numel() for tensor in tensors.values())
    differences = {a.name: a.start.differences for a in adapters if a.start.differences}
    worst = max((max(found) for found in differences.values()), default=0.0)
    written = Written(output, method, layers, num_parameters, dropped, worst)
    ingredients = [Ingredient.of(weight, adapter) for weight, adapter in sources]
    with staged_folder(output) as staging:
        corrects_base = any(adapter.start.corrects_base for adapter in adapters)
        own_form.mark(staging, corrects_base=corrects_base)
        content = save(dict(sorted(tensors.items())), metadata={"format": "pt"})
        write_atomically(staging / TENSORS_FILE_NAME, content)
        text = card(
            values, ingredients, method=method, error=written.error, differences=differences
        )
        write_atomically(staging / "README.md", text.encode())
        for name, path in beside.items():
            write_atomically(staging / name, path.read_bytes())
        config = json.dumps(values, indent=2, sort_keys=True, allow_nan=False)
        write_atomically(staging / FILE_NAME, config.encode())
    return written


def _with_common_expert_rank(layers: Mapping[str, MadeLayer]) -> dict[str, MadeLayer]:
    """PEFT knows an expert parameter's rank by a name that files do not have: one for all."""
    ranks = [layer.change.rank for layer in layers.values() if layer.layout == "experts"]
    most = max(ranks, default=0)
    return {
        name: layer.padded(most) if layer.layout == "experts" else layer
        for name, layer in sorted(layers.items())
    }


def _config_values(
    adapters: Sequence[SavedAdapter],
    layers: Mapping[str, MadeLayer],
    *,
    base: str | None,
    use_rslora: bool,
) -> dict[str, object]:
    first = adapters[0]
    ranks = {name: layer.change.rank for name, layer in layers.items()}
    too_high = max(ranks, key=ranks.__getitem__)
    if ranks[too_high] > MAX_RANK:
        raise AdapterError(
            f"{too_high} would have rank {ranks[too_high]}; at most {MAX_RANK} are possible. Give "
            "a rank to cut to, or a max_error."
        )
    alphas = {
        name: _alpha(layer.change.scaling, ranks[name], use_rslora=use_rslora)
        for name, layer in layers.items()
    }
    experts = [name for name, layer in layers.items() if layer.layout == "experts"]
    r, alpha = (
        (ranks[experts[0]], alphas[experts[0]])
        if experts
        else Counter((ranks[name], alphas[name]) for name in layers).most_common(1)[0][0]
    )
    assert all(alphas[name] == alpha for name in experts)
    plain = [name for name in layers if name not in experts]
    by_leaf = not experts  # a leaf name could also match an expert parameter
    dropouts = {adapter.config.lora_dropout for adapter in adapters}
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropouts.pop() if len(dropouts) == 1 else 0.0,
        bias=first.config.bias,
        modules_to_save=first.config.modules_to_save,
        use_rslora=use_rslora,
    )
    rank_pattern = _pattern({n: ranks[n] for n in plain}, r, "rank_pattern", by_leaf=by_leaf)
    values = peft_values(
        config,
        r=r,
        alpha=alpha,
        target_modules=[],
        target_parameters=None,
        rank_pattern={name: int(rank) for name, rank in rank_pattern.items()},
        alpha_pattern=_pattern(
            {n: alphas[n] for n in plain}, alpha, "alpha_pattern", by_leaf=by_leaf
        ),
        token_indices=first.values.get("trainable_token_indices"),
        kind_fields={},
        base_model=base,
        revision=first.values.get("revision") if base == _base(first) else None,
        fan_in_fan_out=all(bool(adapter.values.get("fan_in_fan_out")) for adapter in adapters),
    )
    has_bias = any(layer.change.bias is not None for layer in layers.values())
    without = [name for name, layer in layers.items() if layer.layout != "linear"]
    if has_bias and without:
        raise AdapterError(
            f"the result would have lora_bias, and {without[0]}, which PEFT cannot adapt with it; "
            "possible is one or the other. Leave an adapter out."
        )
    kept = ("task_type", "auto_mapping", "target_parameters")
    return (
        values
        | _targeting(adapters, plain)
        | {
            **{field: first.values.get(field) for field in kept},
            "lora_bias": has_bias,
        }
    )


def _base(adapter: SavedAdapter) -> str | None:
    return adapter.values.get("base_model_name_or_path")


def _alpha(scaling: float, rank: int, *, use_rslora: bool) -> float:
    return scaling * math.sqrt(rank) if use_rslora else scaling * rank


def _pattern(
    wanted: Mapping[str, float], default: float, field: str, *, by_leaf: bool
) -> dict[str, float]:
    """By leaf name where all layers of that name agree, by full name otherwise."""
    by_name: dict[str, set[float]] = {}
    for name, value in wanted.items():
        by_name.setdefault(name.rpartition(".")[2], set()).add(value)
    guess: dict[str, float] = {}
    for name, value in wanted.items():
        leaf = name.rpartition(".")[2]
        agreed = by_leaf and len(by_name[leaf]) == 1
        if value != default:
            guess[leaf if agreed else name] = value
    return portable_pattern(wanted, guess, default, field)


def _targeting(adapters: Sequence[SavedAdapter], names: Sequence[str]) -> dict[str, object]:
    """Fields that name the adapted modules: as given where that means the same, else in full."""
    fields = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    given = [{field: adapter.values.get(field) for field in fields} for adapter in adapters]
    if all(one == given[0] for one in given):
        return given[0]
    everything = dict.fromkeys(fields)
    lists = [
        one["target_modules"]
        for one in given
        if isinstance(one["target_modules"], list) and not any(one[field] for field in fields[1:])
    ]
    # A list matches what its items match, so the union of lists matches the union.
    if len(lists) == len(given):
        return everything | {"target_modules": sorted({name for one in lists for name in one})}
    return everything | {"target_modules": sorted(names)}


def _files_beside(folders: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """{name: path} of the tokenizer's files, and names of those that differ between folders."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted({path for pattern in BESIDE for path in folder.glob(pattern)}):
            if path.is_file():
                found.setdefault(path.name, []).append(path)
    dropped = [
        name
        for name, paths in found.items()
        if any(path.read_bytes() != paths[0].read_bytes() for path in paths[1:])
    ]
    # A tokenizer is all of its files or none.
    return ({} if dropped else {name: paths[0] for name, paths in found.items()}), sorted(dropped)
