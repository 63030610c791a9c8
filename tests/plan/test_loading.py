"""What a run records of its loading is what the plan means by it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.tolerances import PLANNED_PEAK

# In a process of its own, where nothing was loaded before; as `finetune` loads and measures.
SCRIPT = """
import sys
from lorakit.finetune import load_base_of, peak_bytes, plan
from lorakit.recipe import parse_recipe

base = {"model": "builtin", "device": "cpu", "quantization": sys.argv[1]}
recipe = parse_recipe({"base": base, "data": {"train": "no/rows.jsonl"}})
model, tokenizer = load_base_of(recipe.base)
measured = peak_bytes(model.device)
print(measured, plan(recipe, reads_rows=False).peaks.phases["loading"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere libraries take other memory")
@pytest.mark.parametrize("quantization", ["none", pytest.param("nf4", marks=pytest.mark.slow)])
def test_loading_takes_what_is_planned(quantization: str) -> None:
    def run() -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, quantization],
            capture_output=True,
            text=True,
            check=True,
        )
        return [int(number) for number in done.stdout.split()]

    if quantization != "none":
        run()  # compiles ops, which takes more, where they are not yet
    measured, planned = run()
    assert planned == pytest.approx(measured, rel=PLANNED_PEAK)
