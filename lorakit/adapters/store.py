"""Adapters on disk, in PEFT's format, strictly: every tensor consumed, every expected one
present.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorakit.adapters import inits, own_form
from lorakit.adapters.as_peft import config_as_peft
from lorakit.adapters.attach import (
    Attached,
    attach_targets,
    biases_of,
    refuse_second_adapter,
    trained_biases,
)
from lorakit.adapters.attached import DEFAULT_NAME, has_adapter
from lorakit.adapters.contract import InitRequest, Start
from lorakit.adapters.copies import check_copies, copies_of_base, doubled_biases, residuals
from lorakit.adapters.make import make_on_meta
from lorakit.adapters.new_rows import grown_for
from lorakit.adapters.overlaps import resolve_overlaps
from lorakit.adapters.peft_config import (
    FILE_NAME,
    PeftConfig,
    parse_config,
    read_config,
)
from lorakit.adapters.peft_limits import refuse_other_start, refuse_single_experts
from lorakit.adapters.ranks import module_rank_and_alpha
from lorakit.adapters.save import (
    PREFIX,
    module_tensors,
    save_adapter,
    saved_tensors,
)
from lorakit.adapters.several import room_for
from lorakit.adapters.start_base import refuse_other_base
from lorakit.adapters.starting import Initialize
from lorakit.adapters.stored_tensors import (
    StoredTensor,
    adapter_folder,
    pick,
    read_header,
    read_tensors,
    saved_ranks,
    tensors_path,
)
from lorakit.adapters.targets import Targets, features, find_targets
from lorakit.adapters.token_rows import PEFT_NAME
from lorakit.base.frozen_linear import is_linear
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

__all__ = ["load_adapter", "read_tensors", "save_adapter"]

MAX_FAULTS_IN_MESSAGE = 20
DTYPES = {"F64", "F32", "F16", "BF16"}


def load_adapter(
    model: PreTrainedModel, folder: str | os.PathLike[str], *, name: str = DEFAULT_NAME
) -> Attached:
    """Attach the adapter saved in `folder`, by lorakit or by PEFT, to `model`; it can train on.

    It is in use then, beside others that the model may have (see `attach_adapter`).

    Args:
        model: the base the adapter was trained on. Where it lacks rows of new tokens that the
            adapter trains, and has no other adapter, its vocabulary grows.
        folder: with adapter_config.json and adapter_model.safetensors; or one level above, when it
            holds a single adapter (PEFT saves adapters not called "default" in a subfolder). Where
            it has an `unconverted/` form, that is loaded: the very model that was trained.
        name: of the adapter, for `use_adapter`.

    Returns:
        As `attach_adapter`.

    Raises:
        AdapterError: the name is taken, not a LoRA of PEFT's, pickled, an option that lorakit does
            not have, or tensors that do not fit the model: all missing, surplus and misshapen ones
            are listed. The model is unchanged then.
    """
    with room_for_rows(model, folder), room_for(model, name):
        stored = read_adapter(model, folder)
        adapter = attach_targets(model, stored.config, stored.targets, _initialize_of(stored))
        fill(saved_tensors(adapter), stored.tensors)
        adapter.parameters_changed()
        return adapter


@contextmanager
def room_for_rows(model: PreTrainedModel, folder: str | os.PathLike[str]) -> Iterator[None]:
    """`new_rows.grown_for` the adapter in `folder`; not while another adapter stands on the base's
    tables.
    """
    path = adapter_folder(Path(folder))
    unconverted = own_form.find(path)
    if unconverted is None:
        config = read_config(path / FILE_NAME).config
    else:
        path = unconverted / own_form.FOLDER
        config = parse_config(path, own_form.read(unconverted).adapter_config).config
    if config.trainable_token_indices is None or has_adapter(model):
        yield
        return
    rows = [s for name, s in read_header(tensors_path(path)).items() if name.endswith(PEFT_NAME)]
    with grown_for(model, config, max((stored.shape[0] for stored in rows), default=0)):
        yield


@torch.no_grad()
def fill(targets: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy the saved tensors into those of the same name."""
    for name, target in targets.items():
        target.copy_(tensors[name])


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter folder, read and checked against a model, not attached.

    Attributes:
        config: with every target named.
        targets: the model's modules it concerns.
        tensors: {name in PEFT's file: value}.
        starts: {module name: its start} where that is part of the base.
        is_redone: starts are not in the folder: the init that the config names gives them.
    """

    config: LoraConfig
    targets: Targets
    tensors: dict[str, torch.Tensor]
    starts: dict[str, Start]
    is_redone: bool


def read_adapter(model: PreTrainedModel, folder: str | os.PathLike[str]) -> StoredAdapter:
    """Read and check the adapter in `folder`, with arguments and errors as in `load_adapter`.

    The model may be on the meta device; it is not changed.
    """
    refuse_second_adapter(model)
    path = adapter_folder(Path(folder))
    unconverted = own_form.find(path)
    if unconverted is None:
        parsed = read_config(path / FILE_NAME)
        stored = _read_plain(model, path, parsed)
        if parsed.redone:
            refuse_other_start(path, model, stored.config, stored.targets)
        return replace(stored, is_redone=parsed.redone)
    form = own_form.read(unconverted)
    inits.init(form.init_lora_weights)  # refuses one that is not known
    path = unconverted / own_form.FOLDER
    refuse_other_base(form.base, model, path)
    stored = _read_plain(model, path, parse_config(path / own_form.FILE, form.adapter_config))
    config = stored.config.model_copy(update=form.init_fields)
    ranks = module_rank_and_alpha(stored.targets.adapted, config)
    layers = {name: module for name, module in stored.targets.adapted.items() if is_linear(module)}
    shapes = {name: (ranks[name][0], *features(module)) for name, module in layers.items()}
    starts = own_form.read_starts(unconverted, shapes)
    return replace(stored, config=config, starts=starts)


def _read_plain(model: PreTrainedModel, path: Path, parsed: PeftConfig) -> StoredAdapter:
    """The tensors in the folder `path`, as `parsed` describes them."""
    header = read_header(tensors_path(path))
    refuse_single_experts(path, model, header)
    config = config_as_peft(model, parsed, header)
    targets = find_targets(model, config)
    if not biases_of(model, targets, config.bias):  # PEFT passes over biases that are not there
        config = config.model_copy(update={"bias": "none"})
    config = resolve_overlaps(config, targets.pattern_names().values(), saved_ranks(header))
    expected = expected_shapes(model, targets, config)
    copies = copies_of_base(model, targets, header.keys() - expected.keys())
    doubled = doubled_biases(targets, header.keys() - expected.keys())
    left = residuals(targets, copies) if parsed.redone else frozenset()
    to_check = {name: own for name, own in copies.items() if name not in left}
    check_copies(path, to_check, doubled, lambda names: read_tensors(path, pick(header, names)))
    header = pick(header, header.keys() - copies.keys() - doubled.keys())
    _compare(path, expected, header)
    return StoredAdapter(config, targets, read_tensors(path, header), {}, is_redone=False)


def _initialize_of(stored: StoredAdapter) -> Initialize:
    """What gives each layer the start it had; its parameters are filled in afterwards."""
    if stored.is_redone:
        return inits.init(stored.config.init_lora_weights).initialize

    def initialize(request: InitRequest) -> Start:
        if request.name in stored.starts:
            return stored.starts[request.name]
        return Start(
            torch.zeros(request.r, request.in_features),
            torch.zeros(request.out_features, request.r),
        )

    return initialize


def expected_shapes(
    model: PreTrainedModel, targets: Targets, config: LoraConfig
) -> dict[str, torch.Size]:
    """{tensor name in PEFT's file: shape} of the adapter that `config` makes of `model`."""
    modules = make_on_meta(targets, config)
    shapes = {name: tensor.shape for name, tensor in module_tensors(modules).items()}
    for name, bias in trained_biases(model, targets, config.bias).items():
        shapes[f"{PREFIX}{name}"] = bias.shape
    return shapes


def _compare(
    path: Path, expected: Mapping[str, torch.Size], header: Mapping[str, StoredTensor]
) -> None:
    faults = [f"missing {name} {tuple(expected[name])}" for name in expected.keys() - header.keys()]
    faults += [
        f"surplus {name} {tuple(header[name].shape)}" for name in header.keys() - expected.keys()
    ]
    for name in expected.keys() & header.keys():
        stored = header[name]
        if stored.shape != expected[name]:
            faults.append(
                f"misshapen {name}: {tuple(stored.shape)} in the file, {tuple(expected[name])} in "
                "the model"
            )
        if stored.dtype not in DTYPES:
            faults.append(
                f"{name} has dtype {stored.dtype}; possible are {', '.join(sorted(DTYPES))}"
            )
    if faults:
        shown = sorted(faults)[:MAX_FAULTS_IN_MESSAGE]
        more = len(faults) - len(shown)
        raise AdapterError(
            f"{path} does not fit this model, {len(faults)} faults: {'; '.join(shown)}"
            f"{f'; and {more} more' if more else ''}. Load the base model it was trained on."
        )
