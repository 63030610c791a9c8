"""The tokenizer of a model folder, loaded without letting any library read the unfiltered
config.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from lorakit.errors import ModelError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
MAX_TOKENIZER_BYTES = 64 << 20


def load_tokenizer(folder: Path, model_config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Args:
        folder: with one of `TOKENIZER_FILES`.
        model_config: of the model, filtered; names the tokenizer's class where its own files do
            not.

    Raises:
        ModelError: there is none, it asks for remote code, or it cannot be built.
    """
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not found:
        raise ModelError(
            f"{str(folder)!r} has no tokenizer; possible: {', '.join(TOKENIZER_FILES)}. Copy the "
            "tokenizer's files into the folder (`tokenizer.save_pretrained(folder)`)."
        )
    for path in found:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ModelError(
                f"{str(path)!r} has {path.stat().st_size} bytes; possible: at most "
                f"{MAX_TOKENIZER_BYTES}. Download it again."
            )
    _refuse_remote_code(folder / "tokenizer_config.json")
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


def _refuse_remote_code(path: Path) -> None:
    if not path.is_file():
        return
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{str(path)!r} is not valid JSON ({error}); possible: a JSON object. Download it "
            "again."
        ) from error
    if not isinstance(values, dict) or "auto_map" in values:
        raise ModelError(
            f"{str(path)!r} has `auto_map` or is no JSON object; possible: tokenizers that the "
            "installed transformers knows by itself, without code from the model's folder. Remove "
            "the `auto_map` entry if it knows this one, or choose another base.model."
        )
