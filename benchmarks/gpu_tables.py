"""The page that `gpu.py` writes beside its results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from contest import MIB, ratios, spread, table
from gpu_pieces import BASE, KERNELS, OPS, ROUNDS, VARIANTS, all_pieces


def result_table(found: Sequence[dict[str, Any]]) -> str:
    """Training pieces as a table; what others have to say below it."""
    kinds = {piece.name: piece.kind for piece in all_pieces()}
    lines, others = [], []
    for one in found:
        if "error" in one:
            others.append(f"{one['name']} failed: {one['error'].strip().splitlines()[-1]}")
        elif kinds[one["name"]] in (KERNELS, OPS):
            others.append(f"{one['name']}:\n\n{one['output'].strip()}")
        else:
            lines.append(table_line(one))
    columns = ["piece", "tokens/s", "peak MiB, loading", "peak MiB, training"]
    columns += ["share of ceiling", "waits in a step"]
    dry = (
        "A dry run: nothing here is a measurement.\n\n" if any(o["dry_run"] for o in found) else ""
    )
    devices = sorted({one["device"] for one in found if "device" in one})
    on = f"Device: {', '.join(devices)}.\n\n" if devices else ""
    told_others = "".join(f"\n{other}\n" for other in others)
    tables = [table(columns, lines)] if lines else []
    compared = comparisons({one["name"]: one for one in found if "seconds" in one})
    if compared:
        tables.append(table(["piece", "against", "times its tokens/s, by rounds"], compared))
    return f"# GPU\n\n{dry}{on}" + "\n\n".join(tables) + f"\n{told_others}"


def table_line(one: dict[str, Any]) -> list[str]:
    """Tokens/s: median, lowest and highest of the steps."""
    share = one.get("share_of_ceiling")
    return [
        one["name"],
        spread([one["tokens"] / seconds for seconds in one["seconds"]], ",.0f"),
        mebibytes(one["load_peak_bytes"]),
        mebibytes(one["peak_bytes"]),
        "" if share is None else f"{share:.0%}",
        one.get("synchronisation", ""),
    ]


def mebibytes(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / MIB:,.0f}"


def comparisons(found: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """Ratios of pieces of one round, which ran one after the other: lorakit's against the peers'
    of the same variant, and its own variants against each other.
    """
    size = f"{BASE[0]}x{BASE[1]}"
    pairs = [
        (f"{variant}-{size}", f"peft-{variant}-{size}-{setting}")
        for variant in VARIANTS
        for setting in ("kept", "default")
    ]
    pairs += [(f"qlora-{size}", f"lora-{size}"), (f"qdora-{size}", f"qlora-{size}")]
    lines = []
    for name, other in pairs:
        rounds = [
            n for n in range(1, ROUNDS + 1) if {f"{name}-{n}", f"{other}-{n}"} <= found.keys()
        ]
        ours, theirs = ([rate(found[f"{one}-{n}"]) for n in rounds] for one in (name, other))
        if rounds:
            lines.append([name, other, spread(ratios(ours, theirs), ".2f")])
    return lines


def rate(one: dict[str, Any]) -> float:
    """Tokens/s of the middle step."""
    return one["tokens"] / statistics.median(one["seconds"])
