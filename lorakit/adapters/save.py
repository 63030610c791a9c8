"""Write an adapter as PEFT does: adapter_config.json, adapter_model.safetensors, README.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import PreTrainedModel

from lorakit.adapters import kinds, own_form
from lorakit.adapters.attached import Attached, attached
from lorakit.adapters.contract import AdaptedModule
from lorakit.adapters.model_card import model_card
from lorakit.adapters.modules import AdaptedLinear
from lorakit.adapters.name_endings import endings, minimal_endings, portable_pattern
from lorakit.adapters.patterns import is_below, matches_list
from lorakit.adapters.peft_config import FILE_NAME, peft_values
from lorakit.adapters.plain_form import stacked, widened
from lorakit.adapters.ranks import alpha_of, module_rank_and_alpha
from lorakit.adapters.start_base import start_base
from lorakit.base.frozen_experts import expert_layouts, parameter_name
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.info import BaseInfo, base_info
from lorakit.errors import AdapterError, ModelError, NonFiniteError
from lorakit.files import write_atomically
from lorakit.recipe import LoraConfig
from lorakit.recipe.builtin_names import is_builtin_model

TENSORS_FILE_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."


def save_adapter(
    model: PreTrainedModel,
    folder: str | os.PathLike[str],
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter of `model` to `folder` in PEFT's format.

    Every file is replaced in one step. A config that changes is removed first and written last, so
    a crash leaves the old adapter, the new one, or a folder that does not load; never a mixture.

    An adapter whose init changed the base is written in two forms: the plain one, which every
    engine can load, and in `unconverted/` the one that `load_adapter` takes (see own_form.py).

    Args:
        model: with an attached adapter.
        folder: made if it does not exist.
        state_dict: `model.state_dict()` as a distributed trainer gathered it; null: the model's
            own.

    Raises:
        AdapterError: no adapter, a path that is a file, or a config that PEFT could not read back.
        NonFiniteError: a parameter is NaN or infinite; nothing is written.
    """
    adapter, path = attached(model), Path(folder)
    if path.exists() and not path.is_dir():
        raise AdapterError(
            f"{path} is a file; an adapter is saved to a folder. Choose another path."
        )
    tensors, starts = gather_tensors(adapter, state_dict), adapter.kept_starts()
    values = config_values(model)
    content = (json.dumps(values, indent=2, sort_keys=True, allow_nan=False)).encode()
    path.mkdir(parents=True, exist_ok=True)
    config_path = path / FILE_NAME
    own_form.forget(path)
    if config_path.exists() and config_path.read_bytes() != content:
        config_path.unlink()
    if starts:
        own_form.write_tensors(path, tensors, starts)
    else:
        own_form.remove(path)
    plain = _plain_tensors(adapter, tensors)
    corrects_base = any(kept.start.corrects_base for kept in adapter.starts().values())
    own_form.mark(path, corrects_base=corrects_base)
    write_atomically(path / TENSORS_FILE_NAME, save(plain, metadata={"format": "pt"}))
    write_atomically(path / "README.md", model_card(adapter, values, _info(model)).encode())
    if starts:
        own_values = config_values(model, plain=False)
        names = ("init_lora_weights", "loftq_config", "eva_config")
        init_fields = {name: getattr(adapter.config, name) for name in names}
        base = start_base(model, adapter.starts().keys())
        assert base is not None  # a model on the meta device has no tensors to save
        own_form.write(path, own_values, init_fields, base, adapter.start_errors)
    write_atomically(config_path, content)


def _plain_tensors(
    adapter: Attached, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """{tensor name in PEFT's file: value} for the base as it is without the init's change."""
    plain = dict(tensors)
    for name, kept in adapter.starts().items():
        for suffix in adapter.modules[name].peft_names():
            file_name = f"{PREFIX}{name}.{suffix}"
            plain[file_name] = stacked(suffix, tensors[file_name], kept.start)
    return plain


class PretrainedSaver:
    """What `model.save_pretrained` is while an adapter is attached: trainers' checkpoints call
    it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def __call__(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        token: str | bool | None = None,
        save_peft_format: bool = True,
        save_original_format: bool = True,
    ) -> None:
        """Save the adapter, with the arguments of `PreTrainedModel.save_pretrained`.

        `max_shard_size`, `token` and `save_original_format` do not apply to one small local file.

        Raises:
            AdapterError: an argument asks for something else than a PEFT adapter in a local folder.
        """
        if push_to_hub or variant is not None or not safe_serialization or not save_peft_format:
            raise AdapterError(
                f"save_pretrained(push_to_hub={push_to_hub}, variant={variant!r}, "
                f"safe_serialization={safe_serialization}, save_peft_format={save_peft_format}) "
                "cannot save an adapter; possible is a local folder in PEFT's format. Leave these "
                "arguments out, and upload the folder with huggingface_hub."
            )
        if is_main_process:
            save_adapter(self.model, save_directory, state_dict=state_dict)


def peft_names(adapter: Attached) -> dict[str, str]:
    """{tensor name in PEFT's file: parameter name in the model}, sorted by file name."""
    names = {name: name for name in adapter.biases}
    for name, module in adapter.modules.items():
        names |= {
            f"{module.file_name}.{suffix}": f"{name}.{below}"
            for suffix, below in module.peft_names().items()
        }
    return {f"{PREFIX}{file_name}": names[file_name] for file_name in sorted(names)}


def saved_tensors(adapter: Attached) -> dict[str, torch.Tensor]:
    """{tensor name in PEFT's file: the model's tensor that is saved there}, biases included."""
    biases = {f"{PREFIX}{name}": bias for name, (bias, _) in adapter.biases.items()}
    return module_tensors(adapter.modules) | biases


def module_tensors(modules: Mapping[str, AdaptedModule]) -> dict[str, torch.Tensor]:
    """As `saved_tensors`, of modules that may not be part of a model."""
    tensors: dict[str, torch.Tensor] = {}
    for module in modules.values():
        own = dict(module.named_parameters()) | dict(module.named_buffers())
        prefix = f"{PREFIX}{module.file_name}"
        tensors |= {f"{prefix}.{suffix}": own[n] for suffix, n in module.peft_names().items()}
    return tensors


def gather_tensors(
    adapter: Attached, state_dict: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """{tensor name in PEFT's file: its value on the CPU}.

    Raises:
        AdapterError: `state_dict` lacks a parameter, or has it in another shape.
        NonFiniteError: a value is NaN or infinite.
    """
    own = saved_tensors(adapter)
    tensors = {}
    for file_name, name in peft_names(adapter).items():
        value = own[file_name] if state_dict is None else state_dict.get(name)
        if value is None or value.shape != own[file_name].shape:
            found = "nothing" if value is None else tuple(value.shape)
            raise AdapterError(
                f"the state_dict given to save has {found} for {name!r}, the model "
                f"{tuple(own[file_name].shape)}. Gather the sharded parameters before saving."
            )
        if not torch.isfinite(value).all():
            raise NonFiniteError(
                f"{name!r} holds NaN or infinite values and was not saved. Go back to the last "
                "checkpoint."
            )
        tensors[file_name] = value.detach().cpu().contiguous()
    return tensors


def config_values(model: PreTrainedModel, *, plain: bool = True) -> dict[str, object]:
    """The fields of adapter_config.json for the adapter of `model`.

    Args:
        plain: in its plain form, which differs where an init changed the base.

    Raises:
        AdapterError: PEFT would read other modules, ranks or alphas from it than this model has.
    """
    adapter = attached(model)
    config, info = adapter.config, _info(model)
    in_parameters = {n: m.target_parameter for n, m in adapter.modules.items()}
    parameters = [name for name in in_parameters.values() if name is not None]
    in_modules = [name for name, parameter in in_parameters.items() if parameter is None]
    names = [name for name in in_modules if name in adapter.adapted]
    others = [name for name, _ in model.named_modules() if name and not is_below(name, in_modules)]
    wanted = widened(
        module_rank_and_alpha([*names, *parameters], config),
        {name: kept.start for name, kept in adapter.starts().items()} if plain else {},
        rank_pattern=config.rank_pattern,
        alpha_pattern=_alphas_by_rank(config) | config.alpha_pattern,
        r=config.r,
        alpha=alpha_of(config.r, config),
        use_rslora=config.use_rslora,
    )
    ranks = portable_pattern(wanted.ranks, wanted.rank_pattern, wanted.r, "rank_pattern")
    alphas = portable_pattern(wanted.alphas, wanted.alpha_pattern, wanted.alpha, "alpha_pattern")
    return peft_values(
        config,
        r=wanted.r,
        alpha=wanted.alpha,
        target_modules=minimal_endings(names, others),
        target_parameters=_parameter_endings(model, parameters),
        rank_pattern={name: int(rank) for name, rank in ranks.items()},
        alpha_pattern=alphas,
        token_indices=_token_indices(model, config),
        kind_fields=kinds.kind(config.kind_name).PEFT_FIELDS,
        base_model=_base_model(model),
        revision=None if info is None else info.revision,
        fan_in_fan_out=_fan_in_fan_out(adapter),
    )


def _alphas_by_rank(config: LoraConfig) -> dict[str, float]:
    """alpha_pattern for ranks of their own: PEFT's alpha does not follow a module's rank."""
    if config.lora_alpha is not None or config.use_rslora:
        return {}
    return {name: alpha_of(rank, config) for name, rank in config.rank_pattern.items()}


def _parameter_endings(model: PreTrainedModel, names: list[str]) -> list[str] | None:
    """Few endings of two parts or more that name these parameters of the plain model, in the order
    in which PEFT nests them.
    """
    if not names:
        return None
    others = {parameter_name(path, layout) for path, layout in expert_layouts(model).items()}
    others |= {name for name, _ in model.named_parameters()}
    # Those of packed and adapted layers have another name in the plain model.
    others |= {
        f"{path.removesuffix('.base_layer')}.weight"
        for path, module in model.named_modules()
        if isinstance(module, FrozenLinear)
    }
    foreign = {ending for name in others - set(names) for ending in endings(name)}
    chosen: list[str] = []
    for name in names:
        if not matches_list(name, chosen):
            chosen.append(next(end for end in endings(name)[1:] if end not in foreign))
    return chosen


def _fan_in_fan_out(adapter: Attached) -> bool:
    """PEFT's one word for all adapted linear layers: whether they store (I, O)."""
    linear = [m for m in adapter.modules.values() if isinstance(m, AdaptedLinear)]
    return bool(linear) and all(module.base_layer.fan_in_fan_out for module in linear)


def _token_indices(model: PreTrainedModel, config: LoraConfig) -> object:
    """As given, but module names in full: PEFT takes every name that ends with the bare text."""
    given = config.trainable_token_indices
    if not isinstance(given, dict):
        return given
    names = [name for name, _ in model.named_modules()]
    return {
        name: token_ids
        for item, token_ids in given.items()
        for name in names
        if matches_list(name, [item])
    }


def _base_model(model: PreTrainedModel) -> str | None:
    """The folder or hub id the base was loaded from, as far as anybody noted it.

    The built-in base by its folder: PEFT would look for `builtin` on the hub.
    """
    info = _info(model)
    if info is None:
        return model.config.name_or_path or None
    return str(info.folder) if is_builtin_model(info.source) else info.source


def _info(model: PreTrainedModel) -> BaseInfo | None:
    try:
        return base_info(model)
    except ModelError:
        return None
