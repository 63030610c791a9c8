"""Every benchmark script runs, tiny, so that none can rot: what it prints then means nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.builtin import model_folder
from tests import tiny

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(
    path.name
    for path in BENCHMARKS.glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text("utf-8")
)
A_STEP = (
    "--set train.num_train_epochs=0.1 --set evaluate.max_examples=2 --set evaluate.max_generated=2"
)
# What makes a script small; {rows} is a file of questions and answers, {tiny} a random model,
# {builtin} the one that ships.
TINY = {
    "adapter_verbs.py": "--steps 1",
    "data_peers.py": "--tokenizer {builtin} --data {rows} --pairs 1 --max-length 256",
    "gpu.py": "--dry-run --only qlora-selective",
    "grpo_builtin.py": "--seeds 1 --steps 1 --questions 8",
    "grpo_peers.py": "--shape tiny --most 16 --steps 1 --warmup 1 --pairs 1 "
    "--peer-rollouts generate --peer-steps default",
    "inits.py": "--rank 2 --examples 1 --shared nowhere",
    "jail.py": "--rounds 1 --completions 1",
    "load.py": "--shape tiny --pairs 1 --matrix 128 128 --repeats 1",
    "medquad_builtin.py": f"--seeds 1 {A_STEP}",
    "merges.py": "--steps 1 --examples 2",
    "moe.py": "--pairs 1 --experts 4 --top 2 --hidden 64 --layers 1 --tokens 64 --steps 1",
    "ops.py": "--dry-run",
    "optimizers.py": "--millions 1 --steps 1 --seeds 1",
    "lint_speed.py": "--only demo --pairs 1",
    "plan_libraries.py": "--only llama_floor-nf4",
    "plan_memory.py": "--only llama-nf4-lora-none-few-long",
    "plan_speed.py": "--only 8b --gpus 1 --adapter lora --runs 1",
    "real_data.py": "--million --rows 500 --only million-repeated",
    "rslora.py": "--ranks 2 4 --seeds 1",
    "sampler.py": "--rounds 1 --model {tiny}",
    "several.py": "--adapters 2 --repeats 1",
    "sft_peers.py": "--shape tiny --pairs 1 --steps 1 --variants qdora --peer-settings default",
    "sft_variants.py": "--shape tiny --pairs 1 --steps 1 --dropout 0",
    "storages.py": "--rows 1",
    "token_budget.py": "--shape tiny --pairs 1 --steps 1 --variants lora --budgets 256",
    "variants.py": "--epochs 0.1 --seeds 1 --only LoRA LoftQ",
}
NOT_RUN = {
    "five_ways.py": "a case is a whole training, without which there is nothing to compare",
    "medquad.py": "trains pretrained models that lie beside the checkout",
    "plan_evaluation.py": "holds memory of models and rows large enough to be told from libraries",
    "plan_time.py": "its runs are made long enough to be timed: `plan` and `train`",
    "proof.py": "over-trains on purpose: sixty epochs, which no option makes fewer",
}
SECONDS = 600  # a script that hangs; the machine may be busy


def test_every_script_is_run_tiny_or_told_why_not() -> None:
    assert sorted([*TINY, *NOT_RUN]) == SCRIPTS


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Scripts and recipes, which write their sections and results there, and a little data."""
    made = tmp_path / "checkout"
    for name in ("benchmarks", "recipes"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("results", "__*"))
    (made / "docs" / "images").mkdir(parents=True)
    data = tmp_path / "shared" / "data" / "medquad"
    data.mkdir(parents=True)
    rows = [
        {
            "question": f"What is illness {i}?",
            "answer": f"Illness {i} is treated with {i} tablets a day.",
            "focus": f"illness {i}",
        }
        for i in range(48)
    ]
    for name, some in (("small_train_2000", rows[:40]), ("small_test_300", rows[40:])):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (data / f"{name}.jsonl").write_text(lines, "utf-8")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("script", TINY)
def test_a_script_runs_tiny(script: str, checkout: Path, tmp_path: Path) -> None:
    rows = checkout.parent / "shared" / "data" / "medquad" / "small_train_2000.jsonl"
    # The sampler's prompts and answers have up to 500 tokens.
    model = tiny.folder(tmp_path / "tiny", max_position_embeddings=512)
    places = {"rows": rows, "tiny": model, "builtin": model_folder()}
    words = [word.format_map(places) for word in TINY[script].split()]
    done = subprocess.run(
        [sys.executable, str(checkout / "benchmarks" / script), *words],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip()
