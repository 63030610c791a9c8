"""From a folder or hub id to a frozen model and its tokenizer.

config.json, the safetensors headers and the file names are checked by our own code first;
transformers then builds the model from the filtered config and reads the tensors one by one.
"""

from __future__ import annotations

import logging
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
from lorakit.base.as_stored import StoredWeights, pack_as_stored, stored_weights
from lorakit.base.checkpoint import TensorEntry
from lorakit.base.device import compute_device, compute_dtype
from lorakit.base.dtypes import TORCH_DTYPES
from lorakit.base.empty import empty_base
from lorakit.base.families import model_class_of
from lorakit.base.load_checks import check_report, check_size, report_unpacked
from lorakit.base.meta_model import empty_model
from lorakit.base.offload import DEVICE, DISK
from lorakit.base.packing_quantizer import (
    Destination,
    PackedTensor,
    PackingConfig,
    UnpackedTensor,
    register,
)
from lorakit.base.placement import Placed, layer_of
from lorakit.base.quantization_config import CHECKPOINT, check_asked
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
        quantization: how weights of linear layers and experts are stored: a name of
            `base/storages`. Output head, embeddings and expert routers stay dense. "checkpoint": as
            the files have them, which bitsandbytes (or `lorakit quantize`) has packed; nothing is
            quantized again.
        double_quantization: quantize the block scales of 4-bit storages as well.
        block_size: weights that share a scale in 4-bit storages.
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
    check_asked(values, quantization)
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
    plain = empty_model(model_config, dtype=dtype)
    stored = stored_weights(folder, plain, is_packed=quantization == CHECKPOINT)
    check_size(plain, stored.num_weights, folder)
    targets = packing.packable(plain)
    # The same model as it will be stored.
    if quantization == CHECKPOINT:
        empty = pack_as_stored(plain, stored.layers, dtype)
    else:
        empty = empty_model(
            model_config,
            quantization=quantization,
            double_quantization=double_quantization,
            block_size=block_size,
            dtype=dtype,
        )
    placed = placement.place(empty, device, offload=offload, max_device_memory=max_device_memory)
    register()
    with ExitStack() as stack:
        spill = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorakit-")))
        packing_config = PackingConfig(
            _destinations(stored, targets, placed, quantization, dtype, spill),
            quantization,
            block_size=block_size,
            double_quantization=double_quantization,
            device=device,
        )
        loaded = _read_tensors(folder, model_config, stored, packing_config, dtype)
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
    stored: StoredWeights,
    packing_config: PackingConfig,
    dtype: torch.dtype,
) -> PreTrainedModel:
    model_class: Any = model_class_of(model_config)
    report_unpacked(stored, dtype)
    in_layers = {entry.weight.name for entry in stored.layers.values()}
    # It also fuses experts without a second copy of them.
    fuses = any(origin.converted for parts in stored.origins.values() for origin in parts)
    uses_packing = fuses or bool(packing_config.destinations)
    with (
        bar("loading", len(stored.entries) + len(stored.packed)) as running,
        checkpoint.lazy_tensors(stored.entries, running.advance) as lazy,
        quiet_loading(),
    ):
        tensors: dict[str, Any] = dict(lazy)
        for name, entry in stored.packed.items():
            kind = PackedTensor if name in in_layers else UnpackedTensor
            tensors[name] = kind(entry, dtype, running.advance)
        # Without a path, transformers opens no file of the folder by itself: neither an
        # adapter_config.json nor custom code nor weights other than the checked ones.
        loaded, report = model_class.from_pretrained(
            None,
            config=model_config,
            state_dict=tensors,
            dtype=dtype,
            attn_implementation=model_config._attn_implementation,
            quantization_config=packing_config if uses_packing else None,
            # Not ignored: `_check_report` names them in an error of ours.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    check_report(report, folder)
    return loaded


def _destinations(
    stored: StoredWeights,
    targets: dict[str, str],
    placed: tuple[Placed, ...],
    quantization: str,
    dtype: torch.dtype,
    spill: Path,
) -> dict[str, Destination]:
    """Where the weights go that are stored by us, by the name of their parameter."""
    where = {row.layer: row.where for row in placed}
    destinations = {}
    as_stored = {path: f"{path}.weight" for path in stored.layers}
    for path, parameter in (targets | as_stored).items():
        # What is packed but no target (a router, the head) was counted among what stays.
        target = where[layer_of(path)] if path in targets else DEVICE
        is_packed = path in stored.layers or quantization not in ("none", CHECKPOINT)
        if is_packed or target != DEVICE:
            entry = None if is_packed else _left_in_checkpoint(stored, parameter, target, dtype)
            destinations[parameter] = Destination(target, spill / f"{path}.safetensors", entry)
    return destinations


def _left_in_checkpoint(
    stored: StoredWeights, parameter: str, where: str, dtype: torch.dtype
) -> TensorEntry | None:
    """The checkpoint tensor that a dense weight going to disk already is, if it is one."""
    parts = stored.origins.get(parameter, ())
    if where != DISK or len(parts) != 1 or parts[0].converted or parts[0].packed is not None:
        return None
    entry = stored.entries[parts[0].tensor]
    return entry if TORCH_DTYPES[entry.dtype] == dtype else None


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
