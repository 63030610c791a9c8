"""What libraries take of a CPU's memory: models of next to nothing, loaded and trained.

    python benchmarks/plan_libraries.py

`lorakit/plan/libraries.py` has its numbers from here.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import plan_memory
from contest import MIB, table
from plan_runs import FAMILIES, measure_all

# Models whose tensors are less than one MiB, and their batches.
NEXT_TO_NOTHING = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "head_dim": 16,
}


def main() -> None:
    """Measure every family and storage, and print the table."""
    print(report(measure_all(plan_memory.__file__, configurations(), __doc__)))


def configurations() -> dict[str, dict[str, Any]]:
    """{name: task}."""
    return {
        f"{family}_floor-{storage}": {
            "family": family,
            "quantization": storage,
            "use_dora": False,
            "recompute": "none",
            "lengths": [64] * 2,
            "sizes": NEXT_TO_NOTHING,
        }
        for family, storage in product(FAMILIES, ("none", "nf4", "int8"))
    }


def report(rows: list[dict[str, Any]]) -> str:
    """What libraries take, in MiB, as measured and as the plan counts it."""
    columns = ["configuration", "loading", "planned", "training", "planned"]
    lines = [
        [row["name"]]
        + [
            f"{row[of][what] / MIB:,.0f}"
            for what in ("load", "peak")
            for of in ("measured", "planned")
        ]
        for row in rows
    ]
    return table(columns, lines)


if __name__ == "__main__":
    main()
