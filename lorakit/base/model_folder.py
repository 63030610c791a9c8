"""Writing a model folder: weights in shards that are read back, and the small files beside them.

Everything goes into a folder that becomes the final one by one rename (`files.staged_folder`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lorakit.base.checkpoint import INDEX, WEIGHTS
from lorakit.base.code_values import MARK
from lorakit.base.hub import LICENCES
from lorakit.base.placement import parse_bytes
from lorakit.errors import InputError, RunError, VerificationError
from lorakit.files import write_json
from lorakit.progress import bar

# What belongs to a model folder beside config and weights.
COPIED = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "tekken.json",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    *LICENCES,
    MARK,  # what is merged on top lies beside the values of codes too
)


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that are made together when they are written, and go into one file.

    Attributes:
        num_bytes: about how many they are.
        make: gives them by name.
    """

    num_bytes: int
    make: Callable[[], dict[str, torch.Tensor]]


def shard_bytes(max_shard_size: int | str) -> int:
    """Bytes of one weights file.

    Raises:
        InputError: not a size, or zero.
    """
    max_bytes = parse_bytes(max_shard_size)
    if not max_bytes:
        raise InputError(f"max_shard_size {max_shard_size!r} is no size; possible is '5GB'.")
    return max_bytes


def write_weights(
    groups: Sequence[TensorGroup], folder: Path, max_bytes: int, description: str
) -> int:
    """Make and write all tensors, one file at a time in memory, and read each file again.

    Args:
        groups: in the order they are written.
        folder: to write to.
        max_bytes: of one file; a larger group has a file of its own.
        description: of the progress bar.

    Returns:
        Bytes of all tensors.

    Raises:
        RunError: the disk refuses.
        VerificationError: a file does not read back as it was written.
    """
    shards = list(_shards(groups, max_bytes))
    names = [WEIGHTS] if len(shards) == 1 else _shard_names(len(shards))
    places: dict[str, str] = {}
    total = 0
    with bar(description, total=len(groups)) as running:
        for name, shard in zip(names, shards, strict=True):
            tensors: dict[str, torch.Tensor] = {}
            for group in shard:
                tensors |= group.make()
                running.advance()
            _save(tensors, folder / name)
            places |= dict.fromkeys(tensors, name)
            total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    return total


def copy_small_files(folder: Path, target: Path) -> None:
    """Copy tokenizer, generation config, templates and licences of a model folder."""
    for pattern in COPIED:
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                copy = target / path.relative_to(folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors writes 0600, whatever the umask says
        with safe_open(path, "pt") as file:
            differing = [
                name
                for name, tensor in tensors.items()
                if not torch.equal(_bytes(file.get_tensor(name)), _bytes(tensor))
            ]
    except SafetensorError as error:
        raise RunError(
            f"{path.name} cannot be written: {error}. Make room on the disk, or choose another "
            "output."
        ) from error
    if differing:
        raise VerificationError(
            f"{path.name} does not read back as it was written: {differing[0]!r} differs. Nothing "
            "was written. Check the disk."
        )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    # Bytes, because a NaN does not equal itself.
    return tensor.reshape(-1).view(torch.uint8)


def _shards(groups: Sequence[TensorGroup], max_bytes: int) -> Iterator[list[TensorGroup]]:
    shard: list[TensorGroup] = []
    size = 0
    for group in groups:
        if shard and size + group.num_bytes > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(group)
        size += group.num_bytes
    yield shard


def _shard_names(count: int) -> list[str]:
    return [f"model-{index:05d}-of-{count:05d}.safetensors" for index in range(1, count + 1)]
