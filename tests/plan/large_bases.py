"""Config.json of large bases: those whose plans `benchmarks/plan_speed.py` measures."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

_FOUND = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "large_bases.py"))
LLAMA_3_1_8B: dict[str, Any] = _FOUND["LLAMA_3_1_8B"]
LLAMA_3_1_70B: dict[str, Any] = _FOUND["LLAMA_3_1_70B"]
QWEN3_235B_A22B: dict[str, Any] = _FOUND["QWEN3_235B_A22B"]
