"""MedQuAD on the base that ships with lorakit: recipes/medquad.yaml, once for every seed.

python benchmarks/medquad_builtin.py [--seeds 1 2 3] [--set train.num_train_epochs=1 ...]
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from page import machine, write_section
from runs import metrics_table, train

RECIPE = "recipes/medquad.yaml"
SHOWN = 3  # questions whose answers stand in the page, the first of the file: no choice is made


def main() -> None:
    """Train once for every seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], dest="options")
    arguments = parser.parse_args()
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            run = Path(folder) / str(seed)
            runs[seed] = train(RECIPE, run, [f"train.seed={seed}", *arguments.options])
            print(metrics_table("seed", {seed: runs[seed]}), flush=True)
        answers = samples(run)
        last = json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    options = shlex.join(sys.argv[1:])
    write_section("MedQuAD on the built-in base", text(runs, answers, last["seconds"], options))


def samples(run: Path) -> str:
    """The first answers of base and tuned, whole."""
    lines = map(json.loads, (run / "answers.jsonl").read_text("utf-8").splitlines())
    shown = [line for line in lines if line["set"] == "in_domain"][:SHOWN]
    return "\n\n".join(
        f"> {line['prompt'].strip()}\n\n"
        + "\n\n".join(
            # One line each: what a model writes must not become the page's headings.
            f"*{who}*: {' '.join(line[who].split())}"
            for who in ("reference", "base", "tuned")
        )
        for line in shown
    )


def text(runs: dict[int, dict[str, Any]], answers: str, seconds: float, options: str) -> str:
    """The section of docs/results.md."""
    counts = next(iter(runs.values()))["in_domain"]
    answered = counts["metrics"]["content"]["examples"]
    command = f"python benchmarks/medquad_builtin.py {options}".strip()
    return f"""Written by `{command}`. {machine()}

`{RECIPE}`, QLoRA + DoRA, r 16, on `small_train_2000`; measured on {counts["examples"]} of
`small_test_300`, topics that neither the recipe nor the base's pretraining saw, and on the built-in
retention set. {answered} questions were answered, greedily. Training took {seconds:.0f} s with the
last seed. A verdict rests on the primary metric alone.

{metrics_table("seed", runs)}

The first {SHOWN} test questions, with the last seed:

{answers}
"""


if __name__ == "__main__":
    main()
