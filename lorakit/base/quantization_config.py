"""The `quantization_config` of config.json: bitsandbytes' 4 and 8 bit, checked and made."""

from __future__ import annotations

from typing import Any

import torch

from lorakit.errors import ModelError

KEY = "quantization_config"
CHECKPOINT = "checkpoint"  # the value of base.quantization: as the weights are stored
METHOD = "bitsandbytes"
DTYPES = ("float32", "bfloat16", "float16")
QUANT_STORAGES = {
    "uint8": torch.uint8,
    "int8": torch.int8,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
# transformers' defaults for what a config leaves out.
DEFAULTS: dict[str, Any] = {
    "load_in_4bit": False,
    "load_in_8bit": False,
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_use_double_quant": False,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
}
CHOICES = {
    "bnb_4bit_compute_dtype": DTYPES,
    "bnb_4bit_quant_storage": tuple(QUANT_STORAGES),
    "bnb_4bit_quant_type": ("nf4", "fp4"),
    "llm_int8_has_fp16_weight": (False,),  # True: 16-bit weights, quantized in each product
}


def checked(values: Any, where: str) -> dict[str, Any]:
    """A checkpoint's quantization config, every value known and of its type.

    Args:
        values: as in config.json.
        where: for messages.

    Returns:
        `quant_method` and all keys of `DEFAULTS`.

    Raises:
        ModelError: another method, an unknown key or a value that is not possible.
    """
    method = values.get("quant_method") if isinstance(values, dict) else values
    if not isinstance(values, dict) or method != METHOD:
        raise ModelError(
            f"{where} says that the checkpoint is stored quantized ({method!r}); possible: 4- and "
            "8-bit checkpoints of bitsandbytes (base.quantization: checkpoint), and checkpoints in "
            "float32, bfloat16 or float16. Use the original model, quantized while loading by "
            "base.quantization: nf4."
        )
    known = {f"_{name}" for name in ("load_in_4bit", "load_in_8bit")} | DEFAULTS.keys()
    unknown = sorted(values.keys() - known - {"quant_method"})
    if unknown:
        raise ModelError(
            f"{where}: {KEY} has the unknown key {unknown[0]!r}; possible: "
            f"{', '.join(sorted(DEFAULTS))}. Remove it, or use the original model."
        )
    given = {key: values.get(key, default) for key, default in DEFAULTS.items()}
    for key, value in given.items():
        if not _is_possible(key, value):
            possible = CHOICES.get(key, (f"such as {DEFAULTS[key]!r}",))
            raise ModelError(
                f"{where}: {KEY} has {key} = {value!r}; possible: "
                f"{', '.join(map(str, possible))}. Repair it, or use the original model."
            )
    if given["load_in_4bit"] == given["load_in_8bit"]:
        raise ModelError(
            f"{where}: {KEY} has load_in_4bit = load_in_8bit = {given['load_in_4bit']}; possible: "
            "one of the two. Repair it, or use the original model."
        )
    return {"quant_method": METHOD} | given


def quantization_of(values: dict[str, Any]) -> str:
    """The storage that a checked config names: "nf4", "fp4" or "int8"."""
    return "int8" if values["load_in_8bit"] else values["bnb_4bit_quant_type"]


def check_asked(values: dict[str, Any], quantization: str) -> None:
    """Check that a base is asked for as it is stored.

    Args:
        values: of the filtered config.json.
        quantization: as for `load_base`.

    Raises:
        ModelError: a quantized checkpoint is to be quantized, or an unquantized one taken as is.
    """
    stored = values.get(KEY)
    if stored is None and quantization == CHECKPOINT:
        raise ModelError(
            "quantization 'checkpoint' was asked for, but config.json has no "
            f"{KEY}: the weights are stored unquantized; possible: none, nf4, fp4, int8. Change "
            "base.quantization."
        )
    if stored is not None and quantization != CHECKPOINT:
        raise ModelError(
            f"quantization {quantization!r} was asked for, but config.json says that the weights "
            f"are stored in {quantization_of(stored)} by bitsandbytes; possible: as they are "
            "stored. Set base.quantization: checkpoint, or use the original model."
        )


def made(
    quantization: str,
    *,
    double_quantization: bool,
    quant_storage: torch.dtype,
    compute_dtype: torch.dtype,
    skip_modules: list[str],
) -> dict[str, Any]:
    """The config that transformers writes for a checkpoint in `quantization`.

    Args:
        skip_modules: paths of all linear layers that are stored unquantized.
    """
    is_8bit = quantization == "int8"
    values = {
        "quant_method": METHOD,
        "_load_in_4bit": not is_8bit,
        "_load_in_8bit": is_8bit,
        **DEFAULTS,
        "load_in_4bit": not is_8bit,
        "load_in_8bit": is_8bit,
        "llm_int8_skip_modules": skip_modules,
    }
    if not is_8bit:
        values |= {
            "bnb_4bit_compute_dtype": str(compute_dtype).removeprefix("torch."),
            "bnb_4bit_quant_storage": str(quant_storage).removeprefix("torch."),
            "bnb_4bit_quant_type": quantization,
            "bnb_4bit_use_double_quant": double_quantization,
        }
    return values


def _is_possible(key: str, value: Any) -> bool:
    if key in CHOICES:
        return value in CHOICES[key] and type(value) is type(DEFAULTS[key])
    if key == "llm_int8_skip_modules":
        return value is None or (
            isinstance(value, list) and all(isinstance(name, str) for name in value)
        )
    if key == "llm_int8_threshold":
        return type(value) in (int, float) and value >= 0
    return isinstance(value, bool)
