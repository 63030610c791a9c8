"""Write an adapter as PEFT does: adapter_config.json, adapter_model.safetensors, README.md."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import PreTrainedModel

from lorakit.adapters import own_form
from lorakit.adapters.attached import Attached, attached
from lorakit.adapters.model_card import model_card
from lorakit.adapters.peft_config import FILE_NAME, peft_values
from lorakit.adapters.plain_form import stacked, widened
from lorakit.adapters.targets import global_alpha, is_below, match_patterns, module_rank_and_alpha
from lorakit.base.info import BaseInfo, base_info
from lorakit.errors import AdapterError, ModelError, NonFiniteError
from lorakit.files import write_atomically
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
    write_atomically(path / TENSORS_FILE_NAME, save(plain, metadata={"format": "pt"}))
    write_atomically(path / "README.md", model_card(adapter, values, _info(model)).encode())
    if starts:
        own_values = config_values(model, plain=False)
        names = ("init_lora_weights", "loftq_config", "eva_config")
        init_fields = {name: getattr(adapter.config, name) for name in names}
        own_form.write(path, own_values, init_fields, adapter.start_errors)
    write_atomically(config_path, content)


def _plain_tensors(
    adapter: Attached, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """{tensor name in PEFT's file: value} for the base as it is without the init's change."""
    plain = dict(tensors)
    for name, module in adapter.modules.items():
        start = None if module.start is None else module.start.start
        for suffix in module.adapter.peft_tensors():
            file_name = f"{PREFIX}{name}.{suffix}"
            plain[file_name] = stacked(suffix, tensors[file_name], start)
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
    names = {}
    for name, module in adapter.modules.items():
        parameters = {id(p): suffix for suffix, p in module.adapter.named_parameters()}
        for suffix, parameter in module.adapter.peft_tensors().items():
            names[f"{PREFIX}{name}.{suffix}"] = f"{name}.adapter.{parameters[id(parameter)]}"
    for name, copied in adapter.trained_copies.items():
        for suffix in copied.trained.state_dict():
            names[f"{PREFIX}{name}.{suffix}"] = f"{name}.trained.{suffix}"
    for name in adapter.biases:
        names[f"{PREFIX}{name}"] = name
    return dict(sorted(names.items()))


def gather_tensors(
    adapter: Attached, state_dict: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """{tensor name in PEFT's file: its value on the CPU}.

    Raises:
        AdapterError: `state_dict` lacks a parameter, or has it in another shape.
        NonFiniteError: a value is NaN or infinite.
    """
    own: dict[str, torch.Tensor] = dict(adapter.parameters())
    for name, module in adapter.trained_copies.items():
        own |= {
            f"{name}.trained.{key}": value for key, value in module.trained.state_dict().items()
        }
    tensors = {}
    for file_name, name in peft_names(adapter).items():
        value = own[name] if state_dict is None else state_dict.get(name)
        if value is None or value.shape != own[name].shape:
            found = "nothing" if value is None else tuple(value.shape)
            raise AdapterError(
                f"the state_dict given to save has {found} for {name!r}, the model "
                f"{tuple(own[name].shape)}. Gather the sharded parameters before saving."
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
    config = adapter.config
    names = list(adapter.modules)
    replaced = adapter.modules.keys() | adapter.trained_copies.keys()
    others = [name for name, _ in model.named_modules() if name and not is_below(name, replaced)]
    starts = {n: m.start.start for n, m in adapter.modules.items() if m.start is not None}
    wanted = widened(
        module_rank_and_alpha(names, config),
        starts if plain else {},
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        r=config.r,
        alpha=global_alpha(config),
        use_rslora=config.use_rslora,
    )
    ranks = portable_pattern(wanted.ranks, wanted.rank_pattern, wanted.r, "rank_pattern")
    alphas = portable_pattern(wanted.alphas, wanted.alpha_pattern, wanted.alpha, "alpha_pattern")
    kind = next(iter(adapter.modules.values())).adapter
    return peft_values(
        config,
        r=wanted.r,
        alpha=wanted.alpha,
        target_modules=minimal_endings(names, others),
        rank_pattern={name: int(rank) for name, rank in ranks.items()},
        alpha_pattern=alphas,
        kind_fields=kind.PEFT_FIELDS,
        base_model=_base_model(model),
        fan_in_fan_out=all(m.base_layer.fan_in_fan_out for m in adapter.modules.values()),
    )


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


def minimal_endings(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Few name endings that match all `names` and none of the `others`, as PEFT matches a list.

    Raises:
        AdapterError: an adapted name is the end of another module's name.
    """
    foreign = {ending for name in others for ending in _endings(name)}
    chosen: set[str] = set()
    for name in names:
        if not any(ending in chosen for ending in _endings(name)):
            ending = next((ending for ending in _endings(name) if ending not in foreign), None)
            if ending is None:
                raise AdapterError(
                    f"the adapted module {name!r} ends the name of another that is not adapted; "
                    "PEFT's format cannot tell them apart. Adapt both or neither."
                )
            chosen.add(ending)
    return sorted(chosen)


def portable_pattern(
    wanted: Mapping[str, float], written: Mapping[str, float], default: float, field: str
) -> dict[str, float]:
    """A rank_pattern or alpha_pattern that gives every module its value in PEFT too.

    PEFT saves patterns sorted and takes the first match, so overlapping patterns may resolve
    otherwise after a load. Those are written out with full module names.

    Raises:
        AdapterError: not even full names tell the modules apart.
    """
    for pattern in (dict(sorted(written.items())), _full_names(wanted, default)):
        found = match_patterns(wanted, pattern, field)
        if all(found.get(name, default) == value for name, value in wanted.items()):
            return pattern
    raise AdapterError(
        f"{field} {dict(written)!r} cannot be written so that PEFT reads the same: a module name "
        f"is the end of another. Use one value for both in adapter.{field}."
    )


def _full_names(wanted: Mapping[str, float], default: float) -> dict[str, float]:
    return {name: value for name, value in sorted(wanted.items()) if value != default}


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
