"""From what pydantic found to what a person reads: one line per fault, and a way out."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lorakit.recipe.rules.fault import Fault, RuleError
from lorakit.recipe.sections.data import DataSource
from lorakit.recipe.sections.grpo import RewardSection
from lorakit.recipe.text import KeyPath
from lorakit.recipe.trl_names import NOT_HERE

# What other tools call it -> where it is here.
NAMES_ELSEWHERE = {
    "adapter_name_or_path": "adapter.path",
    "batch_size_per_device": "train.batch_size (examples per optimizer step, all devices together)",
    "bf16": "base.dtype: bfloat16",
    "bnb_4bit_use_double_quant": "base.double_quantization",
    "cutoff_len": "data.max_length",
    "datasets": "data.train",
    "eval_dataset": "data.validation",
    "fp16": "base.dtype: float16",
    "gradient_accumulation_steps": "train.batch_size (examples per optimizer step)",
    "learning_rate_scheduler": "train.lr_scheduler_type",
    "load_in_4bit": "base.quantization: nf4",
    "load_in_8bit": "base.quantization: int8",
    "lora_r": "adapter.r",
    "lr": "train.learning_rate",
    "lr_scheduler": "train.lr_scheduler_type",
    "max_prompt_length": "data.max_length (prompt and answer together)",
    "max_seq_length": "data.max_length",
    "micro_batch_size": "train.batch_size (examples per optimizer step), train.micro_batch_tokens",
    "model_name": "base.model",
    "model_name_or_path": "base.model",
    "num_epochs": "train.num_train_epochs",
    "output_dir": "output.dir",
    "per_device_train_batch_size": "train.batch_size (examples per optimizer step)",
    "rank": "adapter.r",
    "reward_funcs": "grpo.rewards",
    "reward_weights": "grpo.rewards: [{name, weight}]",
    "sample_packing": "data.packing",
    "sequence_len": "data.max_length",
    "train_dataset": "data.train",
    "val_size": "data.validation",
    "val_set_size": "data.validation",
    "vllm_importance_sampling_clip_max": "grpo.rollout_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min": "grpo.rollout_importance_sampling_clip_min",
    "vllm_importance_sampling_mode": "grpo.rollout_importance_sampling_mode",
    "vllm_mode": "grpo.use_vllm (always a server of its own)",
    "vllm_server_host": "grpo.vllm_server_base_url",
    "vllm_server_port": "grpo.vllm_server_base_url",
}

MAX_NAMED = 3  # keys in one question

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def faults_of(
    error: ValidationError, values: Mapping[str, Any], model: type[BaseModel]
) -> list[Fault]:
    """Every fault in `error`, one for each place, in the order of the model's fields."""
    grouped: dict[KeyPath, list[dict[str, Any]]] = {}
    faults: list[Fault] = []
    for found in error.errors(include_url=False):
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, RuleError):
            faults += cause.faults
        else:
            path = _existing_path(found["loc"], values, missing=found["type"] == "missing")
            grouped.setdefault(path, []).append(dict(found))
    keys = known_keys(model)
    return faults + [Fault(path, _describe(path, found, keys)) for path, found in grouped.items()]


def in_words(faults: list[Fault], places: Mapping[KeyPath, str], source: str) -> str:
    """The faults as one message.

    Args:
        places: {path of a key: where it was written}.
        source: what has the faults.
    """
    lines = [
        f"{_place(fault.path, places, source)}: {_name(fault.path)}{fault.message}"
        for fault in faults
    ]
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join([f"{source} has {len(lines)} faults:", *lines])


def _name(path: KeyPath) -> str:
    return ".".join(map(str, path)) + " " if path else ""


def _place(path: KeyPath, places: Mapping[KeyPath, str], source: str) -> str:
    """Where `path` was written, or where the nearest thing around it was."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return places[path[:length]]
    return source


def known_keys(model: type[BaseModel]) -> dict[str, list[str]]:
    """{section: its keys} of a recipe model; what stands in no section under the name ''."""
    keys = {"": list(model.model_fields)}
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):  # `Section`, `Section | None`
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys[name] = list(kind.model_fields)
    return keys


def _existing_path(loc: tuple[str | int, ...], values: Any, *, missing: bool) -> KeyPath:
    """`loc` without the names pydantic adds for the alternatives of a union."""
    path: KeyPath = ()
    here = values
    for depth, part in enumerate(loc):
        if _holds(here, part):
            here, path = here[part], (*path, part)
        elif missing and depth == len(loc) - 1:
            path = (*path, part)
    return path


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _describe(path: KeyPath, found: list[dict[str, Any]], keys: dict[str, list[str]]) -> str:
    first = found[0]
    if first["type"] == "extra_forbidden":
        return _unknown_key(path, keys)
    if first["type"] == "missing":
        return "is missing; it has no default"
    if first["type"] == "value_error" and len(found) == 1:
        return str(first["ctx"]["error"])
    if first["type"] in {"model_type", "model_attributes_type"}:
        section = str(path[-1]) if path else ""
        possible = ", ".join(keys.get(section, keys[""]))
        return f"is {_short.repr(first['input'])}, not keys with values. Its keys: {possible}"
    if first["type"] == "union_tag_invalid":
        return f"is {_short.repr(first['input'])}; give a path, a hub id, {{path: ...}} or a list"
    wanted = " or ".join(dict.fromkeys(_clause(one["msg"]) for one in found))
    return f"{wanted}, not {_short.repr(first['input'])}"


def _clause(message: str) -> str:
    """pydantic's sentence as one that follows the key's name."""
    message = message.removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _unknown_key(path: KeyPath, keys: dict[str, list[str]]) -> str:
    key, section = str(path[-1]), str(path[0])
    if len(path) == 1:
        owner, siblings = "a recipe" if len(keys) > 1 else "these options", keys[""]
    elif len(path) == 2:
        owner, siblings = repr(section), keys[section]
    elif path[:2] == ("grpo", "rewards"):
        owner, siblings = "a reward", list(RewardSection.model_fields)
    else:
        owner, siblings = "a data set", list(DataSource.model_fields)
    remedy = _nearest(key, siblings, keys) or f"possible: {', '.join(siblings)}"
    return f"is not a key of {owner}; {remedy}"


def _nearest(key: str, siblings: list[str], keys: dict[str, list[str]]) -> str | None:
    """The key that was meant: by its name in other tools, in another section, or by spelling; of
    what is not here, why."""
    elsewhere = NAMES_ELSEWHERE.get(key)
    if elsewhere is not None and len(keys) == 1:  # options that stand in no section
        elsewhere = re.sub(r"\b(train|data)\.", "", elsewhere)
        elsewhere = elsewhere if re.split(r"\W", elsewhere)[0] in siblings else None
    if elsewhere is not None:
        return f"here it is {elsewhere}"
    if key in NOT_HERE and len(keys) > 1:
        return NOT_HERE[key]
    # Of a name in several sections the first one counts.
    found = reversed([(section, names) for section, names in keys.items() if section])
    sections = {name: section for section, names in found for name in names}
    if key in sections:
        return f"did you mean {sections[key]}.{key}?"
    near = difflib.get_close_matches(key.lower(), siblings, n=1) or _with_words_of(key, siblings)
    if near:
        return f"did you mean {' or '.join(near)}?"
    near = difflib.get_close_matches(key.lower(), sections, n=1) or _with_words_of(key, sections)
    named = [f"{sections[name]}.{name}" for name in near]
    return f"did you mean {' or '.join(named)}?" if named else None


def _with_words_of(key: str, names: Iterable[str]) -> list[str]:
    """Names that have all words of `key`, such as num_train_epochs those of `epochs`; none where
    these would be more than a reader compares."""
    words = set(key.lower().split("_"))
    found = [name for name in names if words <= set(name.split("_"))]
    return found if len(found) <= MAX_NAMED else []
