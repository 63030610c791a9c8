"""`config.json`, checked and filtered by our own code before any library class sees it.

A config is untrusted input: in transformers it has been enough to run code (CVE-2026-4372,
CVE-2026-5241, CVE-2026-93348). What could name code is refused or removed, in nested configs too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lorakit.base import quantization_config
from lorakit.base.families import attention_of, family, model_class_of
from lorakit.errors import ModelError

MAX_CONFIG_BYTES = 4 << 20
MAX_DEPTH = 16
# Says where a config comes from or how it was saved, not what the model computes.
OF_THE_WRITER = frozenset({"transformers_version", "architectures", "dtype", "torch_dtype"})
MODEL_TYPE = re.compile(r"[a-z0-9_.\-]+")

# Keys by which a config chooses code, kernels or files instead of an architecture: removed.
REMOVED_KEYS = frozenset(
    {
        "attn_implementation",
        "custom_pipelines",
        "distributed_config",
        "experts_implementation",
        "fusion_config",
        "kernel_config",
        "quantization_config",  # kept, checked, where a checkpoint of bitsandbytes has it
        "transformers_weights",
        "trust_remote_code",
        "use_kernels",
    }
)

# {size: largest value accepted}: larger than any released model by a wide margin.
SIZE_LIMITS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_hidden_layers": 4096,
    "num_layers": 4096,
    "n_layer": 4096,
    "n_layers": 4096,
    "n_embd": 1 << 20,
    "d_model": 1 << 20,
    "head_dim": 1 << 16,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "n_head": 1 << 14,
    "num_experts": 1 << 16,
    "num_local_experts": 1 << 16,
    "n_routed_experts": 1 << 16,
    "max_position_embeddings": 1 << 30,
}
MAX_INTEGER = 1 << 48

SPECIAL_FLOATS = ("Infinity", "-Infinity", "NaN")  # transformers' {"__float__": ...} in JSON

# Random noise of full training. A frozen base runs without it: adapters have their own dropout.
NOISE_FIELD = re.compile(
    r"(dropout(_p|_prob|_probs|_rate|_ratio)?|pdrop|layerdrop|drop_path_rate|jitter_noise)$"
)

# RWKV halves weights in place every so many layers, against overflow in float16. Packed weights
# would not notice, and frozen ones are not to change.
RESCALING_FIELD = "rescale_every"


def read_config(path: Path) -> dict[str, Any]:
    """Read and filter a `config.json`.

    Args:
        path: the file.

    Returns:
        The values without keys that start with an underscore or choose code; of a checkpoint
        quantized by bitsandbytes its checked `quantization_config`.

    Raises:
        ModelError: unreadable or broken file, remote code, unknown model_type, a checkpoint
            quantized in another way, or a size outside its bounds.
    """
    if not path.is_file():
        raise ModelError(
            f"no config.json in {str(path.parent)!r}; possible: a folder as `save_pretrained` "
            "writes it. Check base.model."
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(
            f"{str(path)!r} has {path.stat().st_size} bytes; possible: at most {MAX_CONFIG_BYTES}. "
            "A model config is a few kilobytes: check the download."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{str(path)!r} is not valid JSON ({error}); possible: a JSON object. Download it "
            "again."
        ) from error
    if not isinstance(values, dict):
        raise ModelError(
            f"{str(path)!r} holds a JSON {type(values).__name__}; possible: an object. Download it "
            "again."
        )
    return filtered(values)


def filtered(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a config without what could choose code; errors as in `read_config`."""
    _check_model_type(values)
    kept = _filtered_object(values, "config.json", 0)
    stored = values.get(quantization_config.KEY)
    if stored:
        kept[quantization_config.KEY] = quantization_config.checked(stored, "config.json")
    return kept


def model_config(values: dict[str, Any]) -> PreTrainedConfig:
    """transformers' config object from filtered values, with dropout, noise and rescaling set
    to zero.

    Raises:
        ModelError: values that the architecture refuses.
    """
    values = dict(values)
    values.pop(quantization_config.KEY, None)  # about the files, not the architecture
    model_type = values.pop("model_type")
    try:
        config = CONFIG_MAPPING[model_type].from_dict(values)
    # Config classes validate with exceptions of many libraries; all of them mean a bad value.
    except Exception as error:
        raise ModelError(
            f"config.json does not describe a {model_type!r} model: {error}. Compare it with the "
            "config.json of a released model of this type."
        ) from error
    config = _of_text(config)
    for part in (config, *_sub_configs(config)):
        for name, value in vars(part).items():
            if NOISE_FIELD.search(name) and type(value) in (int, float):
                setattr(part, name, 0.0)
            if name == RESCALING_FIELD:
                setattr(part, name, 0)
    config._attn_implementation = attention_of(config)
    return config


def _of_text(config: PreTrainedConfig) -> PreTrainedConfig:
    # As transformers' AutoModelForCausalLM does: some models of several senses have a class for
    # their language model alone.
    text_class = config.sub_configs.get("text_config")
    if text_class is not None and model_class_of(config).config_class is text_class:
        return config.get_text_config()
    return config


def as_json(values: Any) -> Any:
    """Filtered values as they are written to a config.json: infinities and NaN as transformers
    spells them.
    """
    if isinstance(values, dict):
        return {key: as_json(value) for key, value in values.items()}
    if isinstance(values, list):
        return [as_json(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        spelled = {math.inf: "Infinity", -math.inf: "-Infinity"}
        return {"__float__": spelled.get(values, "NaN")}
    return values


def config_fingerprint(values: dict[str, Any]) -> str:
    """SHA-256 (hex) of the filtered values, without what says who wrote them."""
    kept = {name: value for name, value in values.items() if name not in OF_THE_WRITER}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _check_model_type(values: dict[str, Any]) -> None:
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or not MODEL_TYPE.fullmatch(model_type):
        raise ModelError(
            f"config.json names the model_type {model_type!r}; possible: small letters, digits, "
            f"'_', '-' and '.', one of the {len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)} causal "
            "language models of the installed transformers. Check base.model."
        )
    family(model_type)


def _filtered_object(values: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise ModelError(
            f"{where} is nested deeper than {MAX_DEPTH} levels; possible: a config as released. "
            "Check base.model."
        )
    if "auto_map" in values:
        raise ModelError(
            f"{where} has `auto_map`, which asks to run code from the model's folder; possible: "
            "models that the installed transformers knows by itself. If it knows this model_type, "
            "remove the `auto_map` entry from config.json; otherwise choose another base.model."
        )
    if depth > 0 and values.get(quantization_config.KEY):
        raise ModelError(
            f"{where} has a {quantization_config.KEY} ({values[quantization_config.KEY]!r}); "
            "possible: one at the top of config.json. Use the original model."
        )
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if key.startswith("_") or key in REMOVED_KEYS:
            continue
        _check_number(key, value, where)
        kept[key] = _filtered_value(value, f"{where}: {key}", depth)
    return kept


def _filtered_value(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in SPECIAL_FLOATS:
            return float(value["__float__"])
        nested_type = value.get("model_type")
        if nested_type is not None and (
            not isinstance(nested_type, str) or not MODEL_TYPE.fullmatch(nested_type)
        ):
            raise ModelError(
                f"{where} names the model_type {nested_type!r}; possible: small letters, digits, "
                "'_', '-' and '.'. Check base.model."
            )
        return _filtered_object(value, where, depth + 1)
    if isinstance(value, list):
        return [_filtered_value(item, where, depth + 1) for item in value]
    return value


def _check_number(key: str, value: Any, where: str) -> None:
    smallest = 0 if key.endswith("experts") else 1  # families of experts have dense members
    if key in SIZE_LIMITS and value is not None and not isinstance(value, (dict, list)):
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not smallest <= value <= SIZE_LIMITS[key]
        ):
            raise ModelError(
                f"{where} has {key} = {value!r}; possible: an integer from {smallest} to "
                f"{SIZE_LIMITS[key]}. Check base.model."
            )
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ModelError(
            f"{where} has {key} = {value!r}; possible: integers up to {MAX_INTEGER}. Check "
            "base.model."
        )


def _sub_configs(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    direct = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    return direct + [deeper for part in direct for deeper in _sub_configs(part)]
