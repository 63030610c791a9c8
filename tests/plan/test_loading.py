"""What a run records of its loading is what the plan means by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.plan.plan import plan
from lorakit.recipe import parse_recipe
from tests import families
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


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(
    ("model_type", "embedding_is_first"), [("llama", True), ("qwen3", True), ("gpt2", False)]
)
def test_a_large_embedding_counts_twice_when_it_is_read(
    model_type: str, embedding_is_first: bool, quantization: str, tmp_path: Path
) -> None:
    """Where nothing is packed that is at the end at worst, because tensors are read side by side;
    of a packed base they come one after another, by name: of most families embeddings are first."""
    config = families.config(model_type, vocab_size=50_000)
    config.save_pretrained(tmp_path)
    base = {"model": str(tmp_path), "device": "cpu", "quantization": quantization}
    recipe = parse_recipe({"base": base, "data": {"train": "no/rows.jsonl"}})
    memory = plan(recipe, reads_rows=False).memory
    embedding = 4 * 50_000 * config.hidden_size
    if quantization == "none":
        assert memory.before_packing == 0
        assert memory.loading_peak == memory.weights + embedding
    elif embedding_is_first:
        assert memory.before_packing > 2 * embedding
        assert memory.loading_peak < memory.weights + embedding // 10
    else:
        assert memory.before_packing < embedding
        assert memory.loading_peak == memory.weights + embedding
