"""Bytes as people read them, on the terminal, on pages and in messages alike."""

from __future__ import annotations


def size(num_bytes: int) -> str:
    """1536 -> `1.5 KiB`; GiB with two digits behind the point, of what is smaller no more than
    anybody looks at."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= scale:
            value = num_bytes / scale
            digits = 2 if unit == "GiB" else int(value < 10)
            return f"{value:,.{digits}f} {unit}"
    return f"{num_bytes} B"
