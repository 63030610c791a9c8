"""Is the predicted time the measured one? Three runs of over two minutes, of other shapes each.

    python benchmarks/plan_time.py
    python benchmarks/plan_time.py --seconds 20 --allowed 0.5      # to try it out
    OMP_NUM_THREADS=1 python benchmarks/plan_time.py --cpu-clock   # on a machine that others use

For each run: `lorakit plan` first, in a process of its own, then `lorakit train`. Measured is the
whole of that process, from its start to its end, imports, loading, validation, checkpoints, losses
before and after and the report included. No answers are generated: their time is an upper bound.
The number of steps is chosen so that a run takes about as long as asked, by a plan of a few steps.

With --cpu-clock every clock of both processes is that of the CPU time they have got: what others do
meanwhile then matters little, and with one thread the seconds are those of a machine left alone.

Exits with 1 when a prediction is further off than allowed, or a run was shorter than two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from contest import results_file, table, work_folder
from page import command, machine, write_section
from transformers import PreTrainedConfig, Qwen3Config
from transformers.models.llama import LlamaForCausalLM
from transformers.models.qwen3 import Qwen3ForCausalLM
from workload import CONFIGS

SHORTEST = 120.0  # what "over two minutes" is
TRIAL_STEPS = 8
SENTENCE = "the patient was given a dose of it and then felt better after two days in bed"

SHAPES: dict[str, PreTrainedConfig] = {
    "smollm2-135m": CONFIGS["smollm2-135m"],
    "qwen3-20m": Qwen3Config(
        vocab_size=8192,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    ),
}
CLASSES = {"llama": LlamaForCausalLM, "qwen3": Qwen3ForCausalLM}


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        shape: of `SHAPES`; None: the model that ships with lorakit, on its own data.
        words: of an answer, the middle of a log-normal.
        options: of the recipe.
    """

    name: str
    shape: str | None
    words: int
    options: dict[str, dict[str, Any]]


CASES = (
    Case(
        "builtin, NF4, DoRA",
        None,
        0,
        {
            "base": {"quantization": "nf4"},
            "adapter": {"use_dora": True},
            "evaluate": {"in_domain": "builtin:in_domain", "max_examples": 40},
        },
    ),
    Case("smollm2-135m, dense, LoRA, short rows", "smollm2-135m", 40, {"adapter": {"r": 16}}),
    Case(
        "qwen3-20m, NF4, LoRA, long rows, recomputed",
        "qwen3-20m",
        300,
        {
            "base": {"quantization": "nf4"},
            "adapter": {"r": 8, "lora_dropout": 0.05},
            "train": {"gradient_checkpointing": True},
        },
    ),
)


def on_the_cpu_clock(arguments: Sequence[str]) -> int:
    """The command line of lorakit, in a process whose clocks are its CPU time."""
    began = psutil.Process().create_time()
    time.monotonic = time.perf_counter = time.process_time
    time.time = lambda: began + time.process_time()
    from lorakit.cli import main as command_line

    code = command_line(list(arguments))
    print(f"cpu seconds: {time.process_time():.3f}", file=sys.stderr)
    return code


def main() -> int:
    """Make, plan and run every case; print and write the table."""
    if sys.argv[1:2] == ["--one"]:
        return on_the_cpu_clock(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=150, help="that a run is to take")
    parser.add_argument("--allowed", type=float, default=0.2, help="share a prediction may be off")
    parser.add_argument("--only", type=int, nargs="*", help="cases by number, from 0")
    parser.add_argument("--cpu-clock", action="store_true", help="count CPU seconds, see above")
    parser.add_argument("--workdir", type=Path, help="where models and runs are kept")
    options = parser.parse_args()
    chosen = [case for i, case in enumerate(CASES) if options.only is None or i in options.only]
    results = []
    with work_folder(options.workdir) as folder:
        for number, case in enumerate(chosen):
            results.append(
                measure(case, folder / f"case-{number}", options.seconds, options.cpu_clock)
            )
            print(json.dumps(results[-1]), flush=True)
    text = report(results, options.allowed)
    print(text)
    whole = options.only is None and options.seconds >= SHORTEST and not options.cpu_clock
    if whole:
        path = results_file("plan_time")
        path.write_text(f"# Predicted and measured time\n\n{text}\n", "utf-8")
        path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        write_section("Predicted time", text)
    short = [r["name"] for r in results if r["measured"] < SHORTEST and whole]
    off = [r["name"] for r in results if abs(error(r)) > options.allowed]
    for names, why in ((short, "shorter than two minutes"), (off, "further off than allowed")):
        if names:
            print(f"{why}: {', '.join(names)}", file=sys.stderr)
    return 1 if short or off else 0


def measure(case: Case, folder: Path, seconds: float, cpu_clock: bool) -> dict[str, Any]:
    """Predict and run one case."""
    folder.mkdir(parents=True, exist_ok=True)
    values = recipe(case, folder)
    trial = lorakit("plan", write(values, folder / "trial.yaml", TRIAL_STEPS), cpu_clock)[0]
    beside = trial["seconds"] - trial["seconds_by_part"]["training"]
    per_step = trial["seconds_by_part"]["training"] / TRIAL_STEPS
    steps = max(TRIAL_STEPS, round((seconds - beside) / per_step))
    path = write(values, folder / "recipe.yaml", steps)
    planned = lorakit("plan", path, cpu_clock)[0]
    shutil.rmtree(folder / "run", ignore_errors=True)
    _, measured = lorakit("train", path, cpu_clock)
    recorded = json.loads((folder / "run" / "plan.json").read_text("utf-8"))
    return {
        "name": case.name,
        "steps": steps,
        "tokens": planned["tokens"],
        "flops": planned["flops"]["total"],
        "predicted": planned["seconds"],
        "measured": round(measured, 1),
        "predicted_parts": planned["seconds_by_part"],
        "measured_parts": recorded["measured"]["seconds_by_part"],
        "found": planned["seconds_found"],
    }


def error(result: dict[str, Any]) -> float:
    """Of the prediction, as a share of what was measured."""
    return result["predicted"] / result["measured"] - 1


def recipe(case: Case, folder: Path) -> dict[str, Any]:
    """The recipe of a case; makes its model and rows."""
    base: dict[str, Any] = {"model": "builtin", "device": "cpu", "dtype": "float32"}
    data: dict[str, Any] = {"train": "builtin:train"}
    if case.shape is not None:
        base["model"] = str(make_model(case.shape, folder / "model"))
        data = {
            "train": str(make_rows(folder / "train.jsonl", 2000, case.words, seed=0)),
            "validation": str(make_rows(folder / "validation.jsonl", 20, case.words, seed=1)),
        }
    values: dict[str, Any] = {
        "base": base,
        "adapter": {"r": 16},
        "data": data,
        "train": {"batch_size": 8, "learning_rate": 1e-4},
        "evaluate": {"metrics": ["loss"]},
        "output": {"dir": str(folder / "run")},
    }
    for section, options in case.options.items():
        values[section] |= options
    return values


def make_model(shape: str, folder: Path) -> Path:
    """Random weights of that shape, with the tokenizer that ships with lorakit."""
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        config = SHAPES[shape]
        CLASSES[config.model_type](config).save_pretrained(folder)
        builtin = files("lorakit.builtin")
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(Path(str(builtin / "model" / name)), folder / name)
    return folder


def make_rows(path: Path, count: int, words: int, seed: int) -> Path:
    """Conversations of random words."""
    generator = np.random.default_rng(seed)

    def text(middle: float) -> str:
        length = int(np.clip(np.exp(generator.normal(np.log(middle), 0.6)), 4, 4 * middle))
        return (
            " ".join(generator.choice(SENTENCE.split(), length)) + f" {generator.integers(10**6)}"
        )

    lines = [
        json.dumps({"prompt": text(12), "completion": text(words)}, ensure_ascii=False)
        for _ in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write(values: dict[str, Any], path: Path, steps: int) -> Path:
    """The recipe for so many steps."""
    third = max(1, steps // 3)
    train = values["train"] | {"max_steps": steps, "save_steps": third}
    if "validation" in values["data"]:
        train["eval_steps"] = third
    path.write_text(yaml.safe_dump(values | {"train": train}), "utf-8")
    return path


def lorakit(verb: str, path: Path, cpu_clock: bool) -> tuple[dict[str, Any], float]:
    """What a verb prints as JSON, and the seconds of its process."""
    program = [__file__, "--one"] if cpu_clock else ["-m", "lorakit"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *program, verb, str(path), "--json"],
        check=True,
        capture_output=True,
        text=True,
        env=dict(os.environ, TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1"),
    )
    seconds = time.monotonic() - began
    if cpu_clock:
        seconds = float(done.stderr.rpartition("cpu seconds: ")[2])
    return json.loads(done.stdout), seconds


def report(results: list[dict[str, Any]], allowed: float) -> str:
    """The table, and what it stands for."""
    rows = [
        [
            r["name"],
            f"{r['steps']:,}",
            f"{r['predicted']:.0f} s",
            f"{r['measured']:.0f} s",
            f"{error(r):+.1%}",
            f"{r['predicted_parts']['training']:.0f} / {r['measured_parts']['training']:.0f} s",
        ]
        for r in results
    ]
    columns = ["run", "steps", "predicted", "measured", "error", "of it training"]
    worst = max(abs(error(r)) for r in results)
    load = os.getloadavg()[0]
    return (
        f"{table(columns, rows)}\n\nThe prediction is that of `lorakit plan`, made before the run. "
        f"Furthest off: {worst:.1%} (allowed: {allowed:.0%}). Load average of the machine at the "
        f"end: {load:.1f}.\n\nWritten by `{command()}`. {machine()}"
    )


if __name__ == "__main__":
    sys.exit(main())
