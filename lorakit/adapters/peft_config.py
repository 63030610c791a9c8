"""`adapter_config.json` as PEFT 0.21 writes it, read strictly: nothing that changes the maths is
ignored.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

FILE_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_ALPHA = 1e6

# PEFT version whose fields and defaults are written, and that the tests compare with.
PEFT_VERSION = "0.21.2"

# Fields that mean here what they mean in PEFT; the names are LoraConfig's.
SHARED = (
    "alpha_pattern",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
)
# PEFT's own defaults where they differ from LoraConfig's.
PEFT_DEFAULTS: dict[str, Any] = {"r": 8, "lora_alpha": 8, "target_parameters": []}
# Fields read here in their own way.
TRANSLATED = ("peft_type", "task_type")
# Fields that do not change what a loaded adapter computes: where it came from, how its init was
# made, and settings of options that are refused below.
WITHOUT_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",  # PEFT and lorakit look at the module's type
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
)
# Fields that are texts where they are set.
TEXTS = ("base_model_name_or_path", "revision", "task_type")
# {field: its value in a plain LoRA}. Any other value is a method that lorakit does not have.
DEFAULTS: dict[str, object] = {
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "layer_replication": None,
    "lora_bias": False,
    "megatron_config": None,
    "monteclora_config": None,
    "use_bdlora": None,
    "use_qalora": False,
    "velora_config": None,
}
# Inits that leave the base weights alone: the saved factors are all there is to load.
INITS_BESIDE_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
# Inits whose change of the base is done again when PEFT loads them, with the same result.
INITS_DONE_AGAIN = ("pissa", "olora")
# {beginning of the name: why PEFT itself does not load what it saved}
INITS_LOST = {
    "pissa_niter": "its SVD is random and unseeded, so the base it was trained on is lost",
    "loftq": "it fits the base again, to what is there when it is loaded",
    "corda": "it takes from the base what only its calibration data tell",
    "lora_ga": "PEFT does not take it out of the base again",
}


@dataclass(frozen=True)
class PeftConfig:
    """A parsed adapter_config.json.

    Attributes:
        path: of the file, for messages.
        config: the same as a LoraConfig; its `target_modules` mean nothing when `targets_unnamed`.
        targets_unnamed: the file names no targets (PEFT's table for the architecture was in
            effect).
        redone: the init that `config` names has to be done again; otherwise `config` names none.
    """

    path: Path
    config: LoraConfig
    targets_unnamed: bool
    redone: bool


def read_config(path: Path) -> PeftConfig:
    """Read an adapter_config.json.

    Raises:
        AdapterError: no such file, no JSON object, another method than LoRA or DoRA, or a value
            out of range.
    """
    return parse_config(path, read_values(path))


def read_values(path: Path) -> dict[str, Any]:
    """The fields of an adapter_config.json, as they stand.

    Raises:
        AdapterError: no such file, or no JSON object.
    """
    try:
        refuse_special_file(path)
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise AdapterError(
                f"{path} has {size} bytes; a LoRA config has at most {MAX_CONFIG_BYTES}."
            )
        values = json.loads(path.read_text("utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise AdapterError(
            f"{path.parent} holds no {path.name}; an adapter folder has {path.name} and "
            "adapter_model.safetensors. Check the path."
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read as JSON: {error}. Restore the file.") from error
    except _ConstantError as error:
        raise AdapterError(
            f"{path} contains {error}, which is no JSON number. Fix the file."
        ) from error
    if not isinstance(values, dict):
        raise AdapterError(
            f"{path} holds a {type(values).__name__}, not a JSON object. Restore the file."
        )
    return values


def refuse_special_file(path: Path) -> None:
    """Raise AdapterError when `path` exists and is no regular file: a pipe would never end."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise AdapterError(
            f"{path} is not a regular file; possible: files as save_adapter or PEFT's "
            "save_pretrained writes them. Restore it."
        )


def parse_config(path: Path, values: Mapping[str, Any]) -> PeftConfig:
    """Check and translate the fields of an adapter_config.json; `path` is for messages.

    Raises:
        AdapterError: as in `read_config`.
    """
    refuse_other_methods(path, values)
    _refuse_other_task(path, values.get("task_type"))
    _refuse_lost_init(path, values.get("init_lora_weights", True))
    return PeftConfig(
        path,
        shared_config(path, values),
        targets_unnamed=values.get("target_modules") is None,
        redone=values.get("init_lora_weights") in INITS_DONE_AGAIN,
    )


def shared_config(path: Path, values: Mapping[str, Any]) -> LoraConfig:
    """The fields that mean here what they mean in PEFT, as a LoraConfig.

    Its init is the default one, unless the one the file names has to be done again on the base.

    Raises:
        AdapterError: a value of a wrong type or out of range.
    """
    fields = PEFT_DEFAULTS | {name: values[name] for name in SHARED if values.get(name) is not None}
    try:
        given = values.get("init_lora_weights")
        init = given if given in INITS_DONE_AGAIN else True
        config = LoraConfig(**(fields | {"init_lora_weights": init}))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise AdapterError(f"{path} is no usable LoRA config: {faults}. Fix the file.") from error
    alphas = [config.lora_alpha or 0.0, *config.alpha_pattern.values()]
    if max(alphas) > MAX_ALPHA:
        raise AdapterError(
            f"{path}: lora_alpha {max(alphas):g} is out of range; at most {MAX_ALPHA:g} is "
            "possible. Fix the file."
        )
    return config


def peft_values(
    config: LoraConfig,
    *,
    r: int,
    alpha: float,
    target_modules: list[str],
    target_parameters: list[str] | None,
    rank_pattern: Mapping[str, int],
    alpha_pattern: Mapping[str, float],
    token_indices: object = None,
    kind_fields: Mapping[str, object],
    base_model: str | None,
    revision: str | None,
    fan_in_fan_out: bool,
) -> dict[str, object]:
    """All fields that PEFT 0.21 writes for a LoRA, with this adapter's values."""
    values: dict[str, object] = {
        **DEFAULTS,
        "alpha_pattern": {name: _number(value) for name, value in alpha_pattern.items()},
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "bias": config.bias,
        "corda_config": None,
        "ensure_weight_tying": config.ensure_weight_tying,
        "eva_config": None,
        "exclude_modules": None,  # target_modules names exactly the adapted modules
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,  # saved factors are all there is to load, whatever the init was
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": _number(alpha),
        "lora_dropout": config.lora_dropout,
        "lora_ga_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": config.modules_to_save or None,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "qalora_group_size": 16,
        "r": r,
        "rank_pattern": dict(rank_pattern),
        "revision": revision,
        "target_modules": target_modules,
        "target_parameters": target_parameters,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": token_indices,
        "use_dora": False,
        "use_rslora": config.use_rslora,
    }
    return values | dict(kind_fields)


def refuse_other_type(path: Path, values: Mapping[str, Any]) -> None:
    """Raise AdapterError, by its name, for any type of PEFT's but LoRA."""
    method = values.get("peft_type")
    if method != "LORA":
        raise AdapterError(
            f"{path} has peft_type {method!r}; possible is 'LORA' (LoRA, rsLoRA, DoRA). Load it "
            "with PEFT, or train a LoRA."
        )


def refuse_other_methods(
    path: Path, values: Mapping[str, Any], *, understood: Collection[str] = ()
) -> None:
    """Raise AdapterError for what is no LoRA, rsLoRA or DoRA, by the name of its type or field.

    Args:
        path: of the file, for messages.
        values: its fields.
        understood: fields that the caller reads beyond those of a LoraConfig.
    """
    refuse_other_type(path, values)
    known = {*SHARED, *TRANSLATED, *WITHOUT_EFFECT, *understood}
    for field, value in values.items():
        harmless = value in (None, False) or (isinstance(value, list | dict) and not value)
        if field not in known and not harmless and value != DEFAULTS.get(field):
            raise AdapterError(
                f"{path} sets {field} to {str(value)[:80]!r}, which lorakit does not have; "
                "possible are LoRA, rsLoRA and DoRA without it. Load it with PEFT."
            )
    for field in TEXTS:
        if not isinstance(values.get(field), str | None):
            raise AdapterError(
                f"{path}: {field} is {str(values[field])[:80]}; possible is a text, or null. Fix "
                "the file."
            )
    if values.get("init_lora_weights") == "mica":
        raise AdapterError(
            f"{path} has init_lora_weights 'mica', a method of its own that trains lora_A alone; "
            "possible are LoRA, rsLoRA and DoRA. Its factors are those of a plain LoRA: set "
            "init_lora_weights to true in the file to load it as one."
        )


def _refuse_other_task(path: Path, task: object) -> None:
    if task not in (None, "CAUSAL_LM"):
        raise AdapterError(
            f"{path} has task_type {task!r}; possible is 'CAUSAL_LM'. Load it with PEFT."
        )


def _refuse_lost_init(path: Path, init: object) -> None:
    possible = (*INITS_BESIDE_THE_BASE, *INITS_DONE_AGAIN)
    if isinstance(init, bool | str) and init in possible:
        return
    reasons = [
        reason
        for name, reason in INITS_LOST.items()
        if isinstance(init, str) and init.startswith(name)
    ]
    raise AdapterError(
        f"{path} has init_lora_weights {init!r}, which changes the base weights when it is "
        f"loaded{f': {reasons[0]}' if reasons else ''}; possible are "
        f"{', '.join(str(name).lower() for name in possible)}. Convert it to a plain LoRA with "
        "PEFT's save_pretrained(path_initial_model_for_weight_conversion=...), in the process that "
        "trained it."
    )


def _number(value: float) -> float:
    """Whole numbers as integers, as PEFT's type says."""
    return int(value) if math.isfinite(value) and value == int(value) else value


class _ConstantError(ValueError):
    pass


def _no_constant(text: str) -> NoReturn:
    raise _ConstantError(text)
