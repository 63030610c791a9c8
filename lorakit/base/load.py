"""From a folder or hub id to a frozen model and its tokenizer.

config.json, the safetensors headers and the file names are checked by our own code first; transformers
then builds the model from the filtered config and reads the tensors one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from lorakit.base import attention, checkpoint, config, hub, info, packing
from lorakit.base.storages import storage
from lorakit.errors import ModelError
from lorakit.progress import bar

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load_base(
    model: str | Path,
    *,
    quantization: str = "none",
    double_quantization: bool = True,
    block_size: int = 64,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, frozen, with its tokenizer.

    Dropout and router noise of the config are set to zero: a frozen base is deterministic.

    Args:
        model: a folder as `save_pretrained` writes it, or a hub id. safetensors only, no remote code.
        quantization: how linear weights are stored: a name of `base/storages`. Output head, embeddings and
            expert routers stay dense.
        double_quantization: quantize the block scales as well.
        block_size: weights that share a scale.
        dtype: of the dense weights and of computation; None: bfloat16 on GPUs that have it, float32 on the CPU.
        device: None: the first GPU if there is one, otherwise the CPU.
        revision: branch, tag or commit of a hub id.

    Returns:
        The model in eval mode, no parameter requiring a gradient, and the tokenizer.

    Raises:
        ModelError: anything wrong with the model's files; the message says which and what to do.
    """
    device = compute_device(device)
    dtype = compute_dtype(dtype, device)
    folder = hub.resolve(model, revision)
    values = config.read_config(folder / "config.json")
    loaded = load_weights(
        folder,
        config.model_config(values),
        quantization=quantization,
        double_quantization=double_quantization,
        block_size=block_size,
        dtype=dtype,
        device=device,
    )
    tokenizer = load_tokenizer(folder, loaded.config)
    info.remember(
        loaded,
        info.BaseInfo(
            source=str(model),
            folder=folder,
            revision=revision,
            quantization=quantization,
            double_quantization=double_quantization,
            block_size=block_size,
            dtype=dtype,
            config_sha256=config.config_fingerprint(values),
        ),
    )
    logger.info("base: %s, %s, computing in %s on %s", model, quantization, dtype, device)
    return loaded, tokenizer


def load_weights(
    folder: Path,
    model_config: PreTrainedConfig,
    *,
    quantization: str,
    double_quantization: bool,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    """Build the model from its filtered config and read its tensors; arguments as in `load_base`."""
    storage(quantization)
    entries = checkpoint.read_entries(folder)
    attention.register()
    packing_config = None
    if quantization != "none":
        packing.register()
        packing_config = packing.PackingConfig(
            quantization, block_size=block_size, double_quantization=double_quantization
        )
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(model_config)]
    with (
        bar("loading", len(entries)) as running,
        checkpoint.lazy_tensors(entries, running.advance) as tensors,
        _quiet(),
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
            output_loading_info=True,
        )
    _check_report(report, folder)
    _load_generation_config(loaded, folder)
    loaded.config.name_or_path = str(folder)
    loaded.requires_grad_(False)
    return loaded.to(device).eval()


def load_tokenizer(folder: Path, model_config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        ModelError: there is none, or it cannot be built.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{str(folder)!r} has no tokenizer; possible: {', '.join(TOKENIZER_FILES)}. Copy the tokenizer's "
            "files into the folder (`tokenizer.save_pretrained(folder)`)."
        )
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), config=model_config, local_files_only=True, trust_remote_code=False
        )
    # Tokenizer files are parsed by Rust and Python code with exceptions of every kind.
    except Exception as error:
        raise ModelError(
            f"the tokenizer in {str(folder)!r} cannot be loaded: {error}. Possible: files as "
            "`tokenizer.save_pretrained` writes them. Download them again."
        ) from error


def compute_device(device: str | torch.device | None) -> torch.device:
    """The device that computes; None: the first GPU if there is one, otherwise the CPU."""
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"device {device!r} is not known; possible: auto, cpu, cuda, cuda:0. Change base.device."
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device {device!r} was asked for, but this machine has no usable GPU; possible: cpu. "
            "Change base.device, or install a CUDA build of torch."
        )
    return chosen


def compute_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of computation; None: bfloat16 on GPUs that have it, float32 otherwise."""
    if dtype is None:
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if dtype not in DTYPES:
        raise ModelError(
            f"dtype {dtype} cannot compute; possible: {', '.join(str(d) for d in DTYPES)}. Change base.dtype."
        )
    return dtype


def _check_report(report: dict[str, Any], folder: Path) -> None:
    faults = []
    for key, wording in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "not expected by this architecture"),
        ("mismatched_keys", "of another shape than config.json says"),
        ("conversion_errors", "not convertible"),
    ):
        names = sorted(str(name) for name in report.get(key) or ())
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            faults.append(f"{len(names)} tensors are {wording}: {shown}")
    if faults:
        raise ModelError(
            f"the weights in {str(folder)!r} do not fit its config.json: {'; '.join(faults)}. Possible: exactly "
            "the tensors of the architecture. Check that config and weights belong together."
        )


def _load_generation_config(model: PreTrainedModel, folder: Path) -> None:
    if not (folder / "generation_config.json").is_file():
        return
    try:
        model.generation_config = GenerationConfig.from_pretrained(
            str(folder), local_files_only=True
        )
    except (ValueError, TypeError, OSError) as error:
        raise ModelError(
            f"{str(folder / 'generation_config.json')!r} cannot be used: {error}. Repair or delete it."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
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
