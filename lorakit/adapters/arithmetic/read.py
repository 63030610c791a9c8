"""Read an adapter folder of PEFT's and check it against itself: no base model is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lorakit.adapters.arithmetic.fitted import read_fitted_start
from lorakit.adapters.arithmetic.saved import (
    BIAS,
    DOWN,
    MAGNITUDE,
    UP,
    Layout,
    SavedAdapter,
    SavedLayer,
)
from lorakit.adapters.overlaps import resolve_overlaps
from lorakit.adapters.patterns import NamePattern
from lorakit.adapters.peft_config import (
    FILE_NAME,
    read_values,
    refuse_other_methods,
    shared_config,
)
from lorakit.adapters.ranks import alpha_of, module_rank_and_alpha, scaling_of
from lorakit.adapters.save import PREFIX
from lorakit.adapters.store import DTYPES, MAX_FAULTS_IN_MESSAGE
from lorakit.adapters.stored_tensors import (
    StoredTensor,
    adapter_folder,
    read_header,
    saved_ranks,
    tensors_path,
)
from lorakit.adapters.token_rows import PEFT_NAME as TOKEN_ROWS
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

SUFFIXES = (*DOWN.values(), *UP.values(), BIAS, MAGNITUDE)

# Options beyond a LoraConfig's that only say which tensors there are.
UNDERSTOOD = ("lora_bias",)
# PEFT copies the input embedding and the output head beside an adapter, and nothing else.
MAX_COPIES = 2


def read_saved(folder: str | os.PathLike[str]) -> SavedAdapter:
    """Read the config and the header of an adapter folder, or of a run's.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors, or one level above.

    Raises:
        AdapterError: another type than LoRA, an option that is not understood, pickled or broken
            files, or tensors that do not fit the config; all of those are listed.
    """
    path = adapter_folder(Path(folder))
    values = read_values(path / FILE_NAME)
    refuse_other_methods(path / FILE_NAME, values, understood=UNDERSTOOD)
    _refuse_no_names(path / FILE_NAME, values)
    config = shared_config(path / FILE_NAME, values)
    header = read_header(tensors_path(path))
    stored, rest = _by_layer(header)
    experts = {name for name in stored if _is_experts(name, values.get("target_parameters") or [])}
    config, ranks = _ranks(path, header, stored, experts, values, config)
    faults: list[str] = []
    layers = {}
    for name, tensors in sorted(stored.items()):
        found = _layer(name, tensors, name in experts, *ranks[name], config=config)
        if isinstance(found, SavedLayer):
            layers[name] = found
        else:
            faults += found
    replaced = {name: t for name, t in rest.items() if _is_replaced(name, values, config)}
    copies = {name: t for name, t in rest.items() if name not in replaced}
    faults += _faults_of_copies(copies)
    faults += [
        f"{name} has dtype {tensor.dtype}; possible are {', '.join(sorted(DTYPES))}"
        for name, tensor in header.items()
        if tensor.dtype not in DTYPES
    ]
    if not stored:
        faults.append("no lora_A and lora_B at all")
    _refuse(path, faults)
    linear = {name: layer.shape for name, layer in layers.items() if layer.layout == "linear"}
    start = read_fitted_start(path, linear)
    return SavedAdapter(path, values, config, layers, replaced, copies, start)


def _refuse_no_names(path: Path, values: Mapping[str, Any]) -> None:
    for field in ("target_parameters", "modules_to_save"):
        names = values.get(field)
        if names is not None and not _is_list_of_names(names):
            raise AdapterError(f"{path}: {field} {str(names)[:80]!r} is no list of names. Fix it.")


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _by_layer(
    header: Mapping[str, StoredTensor],
) -> tuple[dict[str, dict[str, StoredTensor]], dict[str, StoredTensor]]:
    """{layer: {suffix: tensor}} of the low-rank parts, and {name: tensor} of the rest."""
    layers: dict[str, dict[str, StoredTensor]] = {}
    rest = {}
    for name, tensor in header.items():
        suffix = next((suffix for suffix in SUFFIXES if name.endswith(f".{suffix}")), None)
        if suffix is None:
            rest[name] = tensor
        else:
            layer = name.removeprefix(PREFIX).removesuffix(f".{suffix}")
            layers.setdefault(layer, {})[suffix] = tensor
    return layers, rest


def _is_experts(layer: str, target_parameters: list[str]) -> bool:
    module = _module_of(layer)
    owners = [name.rpartition(".")[0] for name in target_parameters]
    return any(module == owner or module.endswith(f".{owner}") for owner in owners)


def _module_of(layer: str) -> str:
    while layer.endswith(".base_layer"):
        layer = layer.removesuffix(".base_layer")
    return layer


def _ranks(
    path: Path,
    header: Mapping[str, StoredTensor],
    layers: Mapping[str, object],
    experts: set[str],
    values: Mapping[str, Any],
    config: LoraConfig,
) -> tuple[LoraConfig, dict[str, tuple[int, float]]]:
    """The config with the patterns in effect, and {layer: (rank, alpha)}.

    Patterns speak of an expert parameter by its own name, which the file does not have: patterns
    that would match one are refused.
    """
    parameters = [
        f"{_module_of(layer)}.{name.rpartition('.')[2]}"
        for layer in experts
        for name in values.get("target_parameters") or []
    ]
    for field in ("rank_pattern", "alpha_pattern"):
        for text in getattr(config, field):
            pattern = NamePattern(text, field)
            matched = next((name for name in parameters if pattern.matches_ending(name)), None)
            if matched is not None:
                raise AdapterError(
                    f"{path}: {field} {text!r} names the experts {matched!r}; possible for experts "
                    "are r and lora_alpha. Load it with PEFT."
                )
    plain = [name for name in layers if name not in experts]
    config = resolve_overlaps(config, plain, saved_ranks(header))
    whole = (config.r, alpha_of(config.r, config))
    return config, module_rank_and_alpha(plain, config) | dict.fromkeys(experts, whole)


def _layer(
    name: str,
    tensors: dict[str, StoredTensor],
    is_experts: bool,
    r: int,
    alpha: float,
    *,
    config: LoraConfig,
) -> SavedLayer | list[str]:
    """The layer, or what is wrong with it."""
    layout: Layout = "experts" if is_experts else "linear"
    if DOWN["embedding"] in tensors or UP["embedding"] in tensors:
        layout = "embedding"
    missing = [s for s in (DOWN[layout], UP[layout]) if s not in tensors]
    if missing:
        return [f"missing {name}.{suffix}" for suffix in missing]
    down, up = tensors[DOWN[layout]].shape, tensors[UP[layout]].shape
    if len(down) != 2 or len(up) != 2:
        return [f"{name} has factors {tuple(down)} and {tuple(up)}, which are no matrices"]
    num_experts = down[0] // r if is_experts else 1
    if down[0] != r * num_experts or up[1] != down[0] or min(*down, *up) == 0:
        return [f"{name} has factors {tuple(down)} and {tuple(up)}, its config says rank {r}"]
    rows = torch.Size([up[0]])
    allowed = {DOWN[layout], UP[layout]} | ({MAGNITUDE} if config.use_dora else set())
    allowed |= {BIAS} if layout == "linear" else set()
    vectors = {s: t.shape for s, t in tensors.items() if s in (BIAS, MAGNITUDE)}
    faults = [f"surplus {name}.{suffix}" for suffix in tensors if suffix not in allowed]
    # DoRA of PEFT's holds an embedding's magnitudes per column.
    faults += [
        f"misshapen {name}.{suffix} {tuple(shape)}, the layer has {up[0]} outputs"
        for suffix, shape in vectors.items()
        if shape != rows
    ]
    if config.use_dora and layout == "linear" and MAGNITUDE not in tensors:
        faults.append(f"missing {name}.{MAGNITUDE}")
    scaling = scaling_of(r, alpha, use_rslora=config.use_rslora)
    return faults or SavedLayer(layout, r, scaling, (num_experts, up[0], down[1]), tensors)


def _is_replaced(name: str, values: Mapping[str, Any], config: LoraConfig) -> bool:
    """Whether a tensor stands in for one of the base's own."""
    path = name.removeprefix(PREFIX)
    if path.endswith(f".{TOKEN_ROWS}"):
        return values.get("trainable_token_indices") is not None
    if config.bias != "none" and path.endswith(".bias"):
        return True
    # As PEFT matches: the end of the module's name, dot or not.
    parts = path.split(".")
    modules = [".".join(parts[:end]) for end in range(1, len(parts))]
    return any(
        module.endswith(item) for item in values.get("modules_to_save") or [] for module in modules
    )


def _faults_of_copies(copies: Mapping[str, StoredTensor]) -> list[str]:
    faults = [
        f"surplus {name} {tuple(tensor.shape)}"
        for name, tensor in copies.items()
        if not (name.endswith(".weight") and len(tensor.shape) == 2)
    ]
    if not faults and len(copies) > MAX_COPIES:
        faults = [f"surplus {name} {tuple(t.shape)}" for name, t in copies.items()]
    return faults


def _refuse(path: Path, faults: list[str]) -> None:
    if faults:
        shown = sorted(faults)[:MAX_FAULTS_IN_MESSAGE]
        more = len(faults) - len(shown)
        raise AdapterError(
            f"the tensors of {path} do not fit its {FILE_NAME}, {len(faults)} faults: "
            f"{'; '.join(shown)}{f'; and {more} more' if more else ''}. Restore both files."
        )
