"""Which weights an adapter is merged into, and which merges are refused by name."""

from __future__ import annotations

from pathlib import Path

from lorakit.base.quantization_config import CHECKPOINT
from lorakit.base.write_quantized import PackSettings
from lorakit.errors import AdapterError

DEQUANTIZED, ORIGINAL = "dequantized", "original"


def chosen_weights(
    into: str | None,
    quantize: PackSettings | None,
    original: str | Path | None,
    quantization: str,
) -> str:
    """The weights to merge into: what was asked for, or what fits the rest.

    Args:
        into, quantize, original, quantization: as for `merge_folder`.

    Raises:
        AdapterError: the options exclude each other, or ask for what loses the adapter.
    """
    check_into(into)
    if original is not None and quantization != CHECKPOINT:
        raise AdapterError(
            f"original {str(original)!r} cannot take effect: the base is no quantized checkpoint, "
            "its own files hold the original weights. Leave it out."
        )
    if original is not None and into == DEQUANTIZED:
        raise AdapterError(
            f"original {str(original)!r} cannot take effect in a merge into 'dequantized'; "
            "possible: into 'original'. Leave one of them out."
        )
    if quantize is not None and quantize.dtype is not None:
        raise AdapterError(
            f"quantize has a dtype of its own, {quantize.dtype}; possible: dtype, for all that is "
            "written. Give it there."
        )
    if quantize is not None and into == DEQUANTIZED and quantization != "none":
        raise AdapterError(
            f"into 'dequantized' with quantize {quantize.quantization!r} is refused: the weights "
            f"of a base in {quantization} lie on the values of its codes, and packing them again "
            "rounds a change of a few percent or less away (docs/results.md, merges, has what is "
            "left). Possible: into 'original', packed once; or into 'dequantized', unpacked."
        )
    chosen = into or (DEQUANTIZED if quantize is None and original is None else ORIGINAL)
    if chosen == ORIGINAL and quantization == CHECKPOINT and original is None:
        raise AdapterError(
            "the base is itself quantized: it holds no original weights. Possible: into "
            "'dequantized'; or the unquantized model, as `original` (--original MODEL)."
        )
    return chosen


def check_into(into: str | None) -> None:
    """Raise AdapterError where `into` names no weights."""
    if into not in (None, DEQUANTIZED, ORIGINAL):
        raise AdapterError(
            f"into {into!r} is not possible; possible are 'dequantized' (faithful) and 'original'."
        )
