"""The version of what makes tokens of rows: kept on disk, they are made again when it changes."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import tokenizers
import transformers


@cache
def code_version() -> str:
    """Hex SHA-256 over the source of this room and the versions of what it calls."""
    digest = hashlib.sha256(f"{tokenizers.__version__} {transformers.__version__}".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
