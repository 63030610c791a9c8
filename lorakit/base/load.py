"""From a folder or hub id to a frozen model and its tokenizer.

config.json, the safetensors headers and the file names are checked by our own code first;
transformers then builds the model from the filtered config and reads the tensors one by one.
"""

from __future__ import annotations

import logging
import math
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lorakit.base import checkpoint, config, head, hub, info, packing, placement
from lorakit.base.checkpoint import TensorEntry
from lorakit.base.device import compute_device, compute_dtype
from lorakit.base.empty import empty_base, empty_model
from lorakit.base.families import model_class_of
from lorakit.base.offload import DEVICE, DISK, TORCH_DTYPES
from lorakit.base.origin import Origin, origins_of
from lorakit.base.packing import Destination
from lorakit.base.placement import Placed, layer_of
from lorakit.base.tokenizer import load_tokenizer
from lorakit.errors import ModelError
from lorakit.progress import bar

__all__ = [
    "compute_device",
    "empty_base",
    "load_base",
    "load_generation_config",
    "load_tokenizer_of",
    "load_weights",
    "quiet_loading",
]

logger = logging.getLogger(__name__)

# Parameters that may be missing from a checkpoint without exhausting memory: the report names them.
SMALL_MODEL = 10_000_000


def load_base(
    model: str | Path,
    *,
    quantization: str = "none",
    double_quantization: bool = True,
    block_size: int = 64,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    offload: str = "auto",
    max_device_memory: int | str | None = None,
    revision: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, frozen, with its tokenizer.

    Dropout and router noise of the config are set to zero: a frozen base is deterministic.

    Args:
        model: a folder as `save_pretrained` writes it, or a hub id. safetensors only, no remote
            code.
        quantization: how linear weights are stored: a name of `base/storages`. Output head,
            embeddings, expert routers and fused experts stay dense.
        double_quantization: quantize the block scales as well.
        block_size: weights that share a scale.
        dtype: of dense weights and computation; None: bfloat16 on GPUs that have it, else float32.
        device: None or "auto": the first GPU if there is one, otherwise the CPU.
        offload, max_device_memory: where decoder layers live that do not fit; see
            `placement.place`.
        revision: branch, tag or commit of a hub id.

    Returns:
        The model in eval mode, no parameter requiring a gradient, and the tokenizer.
        `base_info(model)` says how it was loaded and where its layers live.

    Raises:
        ModelError: anything wrong with the model's files; the message says which and what to do.
    """
    device = compute_device(device)
    dtype = compute_dtype(dtype, device)
    folder = hub.resolve(model, revision)
    values = config.read_config(folder / "config.json")
    model_config = config.model_config(values)
    tokenizer = load_tokenizer(folder, model_config)
    loaded, placed = load_weights(
        folder,
        model_config,
        quantization=quantization,
        double_quantization=double_quantization,
        block_size=block_size,
        dtype=dtype,
        device=device,
        offload=offload,
        max_device_memory=max_device_memory,
    )
    details = info.BaseInfo(
        source=str(model),
        folder=folder,
        revision=revision,
        quantization=quantization,
        double_quantization=double_quantization,
        block_size=block_size,
        dtype=dtype,
        config_sha256=config.config_fingerprint(values),
        placement=placed,
    )
    info.remember(loaded, details)
    num_offloaded = sum(row.where != DEVICE for row in placed)
    logger.info(
        "base %s: %s, computing in %s on %s, %d layers offloaded",
        model,
        quantization,
        dtype,
        device,
        num_offloaded,
    )
    return loaded, tokenizer


def load_tokenizer_of(
    model: str | Path, *, revision: str | None = None
) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig]:
    """The tokenizer and checked config of a model, without its weights.

    Raises:
        ModelError: as in `load_base`.
    """
    folder = hub.resolve_small_files(model, revision)
    model_config = config.model_config(config.read_config(folder / "config.json"))
    return load_tokenizer(folder, model_config), model_config


def load_weights(
    folder: Path,
    model_config: PreTrainedConfig,
    *,
    quantization: str,
    double_quantization: bool,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    offload: str = "none",
    max_device_memory: int | str | None = None,
) -> tuple[PreTrainedModel, tuple[Placed, ...]]:
    """Build the model of a checked config and read its tensors; needs no tokenizer.

    Args:
        folder: with the safetensors files; others as in `load_base`.

    Returns:
        The frozen model, and where its layers live.
    """
    entries = checkpoint.read_entries(folder)
    plain = _empty(model_config, "none", double_quantization, block_size, dtype)
    _check_size(plain, entries, folder)
    found = origins_of(plain, entries)
    targets = packing.packable_linears(plain)
    # The same model as it will be stored.
    empty = plain
    if quantization != "none":
        empty = _empty(model_config, quantization, double_quantization, block_size, dtype)
    placed = placement.place(empty, device, offload=offload, max_device_memory=max_device_memory)
    where = {row.layer: row.where for row in placed}
    packing.register()
    with ExitStack() as stack:
        spill = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorakit-")))
        destinations = {
            path: Destination(where[layer_of(path)], spill / f"{path}.safetensors")
            for path in targets
            if quantization != "none" or where[layer_of(path)] != DEVICE
        }
        if quantization == "none":
            destinations = _left_in_checkpoint(destinations, found, entries, dtype)
        packing_config = packing.PackingConfig(
            destinations,
            quantization,
            block_size=block_size,
            double_quantization=double_quantization,
            device=device,
        )
        loaded = _read_tensors(
            folder, model_config, entries, packing_config if destinations else None, dtype
        )
        # The spilled weights live as long as the model does.
        weakref.finalize(loaded, stack.pop_all().close)
    load_generation_config(loaded, folder)
    loaded.config.name_or_path = str(folder)
    head.check_halves(loaded)
    nn.Module.to(loaded.requires_grad_(False), device)
    return loaded.eval(), placed


def _read_tensors(
    folder: Path,
    model_config: PreTrainedConfig,
    entries: dict[str, TensorEntry],
    packing_config: packing.PackingConfig | None,
    dtype: torch.dtype,
) -> PreTrainedModel:
    model_class: Any = model_class_of(model_config)
    with (
        bar("loading", len(entries)) as running,
        checkpoint.lazy_tensors(entries, running.advance) as tensors,
        quiet_loading(),
    ):
        # Without a path, transformers opens no file of the folder by itself: neither an
        # adapter_config.json nor custom code nor weights other than the checked ones.
        loaded, report = model_class.from_pretrained(
            None,
            config=model_config,
            state_dict=tensors,
            dtype=dtype,
            attn_implementation=model_config._attn_implementation,
            quantization_config=packing_config,
            # Not ignored: `_check_report` names them in an error of ours.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    _check_report(report, folder)
    return loaded


def _empty(
    model_config: PreTrainedConfig,
    quantization: str,
    double_quantization: bool,
    block_size: int,
    dtype: torch.dtype,
) -> PreTrainedModel:
    return empty_model(
        model_config,
        quantization=quantization,
        double_quantization=double_quantization,
        block_size=block_size,
        dtype=dtype,
    )


def _left_in_checkpoint(
    destinations: dict[str, Destination],
    found: dict[str, tuple[Origin, ...]],
    entries: dict[str, TensorEntry],
    dtype: torch.dtype,
) -> dict[str, Destination]:
    """The same, dense weights going to disk taken from where the checkpoint already has them."""
    kept = {}
    for path, destination in destinations.items():
        parts = found.get(f"{path}.weight", ())
        stored_as_is = (
            destination.where == DISK
            and len(parts) == 1
            and not parts[0].converted
            and TORCH_DTYPES.get(entries[parts[0].tensor].dtype) == dtype
        )
        entry = entries[parts[0].tensor] if stored_as_is else None
        kept[path] = Destination(destination.where, destination.file, entry)
    return kept


def _check_size(plain: PreTrainedModel, entries: dict[str, TensorEntry], folder: Path) -> None:
    # Before anything is allocated: what the checkpoint lacks would be drawn at random first.
    described = sum(parameter.numel() for parameter in plain.parameters())
    held = sum(math.prod(entry.shape) for entry in entries.values())
    if described > 2 * held + SMALL_MODEL:
        raise ModelError(
            f"config.json in {str(folder)!r} describes {described} parameters, but the weights "
            f"hold {held}; possible: a config that belongs to its weights. Download the model "
            "again."
        )


def _check_report(report: dict[str, Any], folder: Path) -> None:
    faults = []
    for key, wording in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "not expected by this architecture"),
        ("mismatched_keys", "of another shape than config.json says"),
        ("conversion_errors", "not convertible"),
    ):
        names = sorted(map(_named, report.get(key) or ()))
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            faults.append(f"{len(names)} tensors are {wording}: {shown}")
    if faults:
        raise ModelError(
            f"the weights in {str(folder)!r} do not fit its config.json: {'; '.join(faults)}. "
            "Possible: exactly the tensors of the architecture. Check that config and weights "
            "belong together."
        )


def _named(entry: Any) -> str:
    """transformers reports a name, or (name, shape in the file, shape in the model)."""
    if isinstance(entry, str):
        return entry
    name, stored, expected = entry
    return f"{name} {tuple(stored)} instead of {tuple(expected)}"


def load_generation_config(model: PreTrainedModel, folder: Path) -> None:
    """Give `model` the generation_config.json in `folder`, if there is one.

    Raises:
        ModelError: it cannot be used.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return
    try:
        model.generation_config = GenerationConfig.from_pretrained(
            str(folder), local_files_only=True
        )
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ModelError(
            f"{str(path)!r} cannot be used: {error}; possible: a file as `save_pretrained` writes "
            "it. Repair or delete it."
        ) from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Our own progress bar and errors stand in for those of transformers while it loads."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
