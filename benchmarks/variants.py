"""DoRA against LoRA, PiSSA and LoftQ against plain QLoRA: MedQuAD on the built-in base.

    python benchmarks/variants.py [--epochs 1] [--seeds 1 2 3] [--runs DIR]

Every run is recipes/medquad.yaml but for what a variant changes: same rows, order, rank and
learning rate. What is compared is the held-out loss of each example, paired with the same example
under plain QLoRA of the same seed. Finished runs in `--runs` are not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from page import command, machine, write_section
from runs import ROOT, train

from lorakit.adapters.attached import adapter_disabled
from lorakit.data.named_sets import prepare_named_sets
from lorakit.evaluate.statistics import central_interval, resampled_means
from lorakit.ship.serving import load_run
from lorakit.train.losses import ExampleLosses, example_losses

RECIPE = "recipes/medquad.yaml"
SET = "in_domain"
PLAIN = "LoRA"  # on an NF4 base: plain QLoRA
VARIANTS = {
    PLAIN: {},
    "rsLoRA": {"adapter.use_rslora": "true"},
    "DoRA": {"adapter.use_dora": "true"},
    "PiSSA": {"adapter.init_lora_weights": "pissa"},
    "LoftQ": {"adapter.init_lora_weights": "loftq"},
    "OLoRA": {"adapter.init_lora_weights": "olora"},
    "EVA": {"adapter.init_lora_weights": "eva"},
    "gaussian": {"adapter.init_lora_weights": "gaussian"},
    "LoRA+": {"train.loraplus_lr_ratio": "16"},
}
COMMON = {
    "adapter.use_dora": "false",
    # Nothing is answered: the loss of each example is measured here.
    "evaluate": "{in_domain: ../shared/data/medquad/small_test_300.jsonl, metrics: [loss]}",
}
TOKEN_BUDGET = 2048


def main() -> None:
    """Train what is missing, compare, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "variants")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    losses: dict[str, list[ExampleLosses]] = {name: [] for name in arguments.only}
    starts: dict[str, list[float]] = {name: [] for name in arguments.only}
    for seed in arguments.seeds:
        for name in arguments.only:
            run = arguments.runs / f"{name}-{arguments.epochs:g}-{seed}"
            if not (run / "evaluation.json").is_file():
                train(RECIPE, run, options(name, seed, arguments.epochs))
            start, found = measure(run)
            starts[name].append(start)
            losses[name].append(found)
            print(f"{name}, seed {seed}: {start:.4f} -> {found.mean:.4f}", flush=True)
    section = text(starts, losses, arguments.epochs)
    print(section)
    write_section(f"Variants on MedQuAD: {', '.join(arguments.only)}", section)


def options(name: str, seed: int, epochs: float) -> list[str]:
    """What a run changes in the recipe."""
    own = {"train.seed": str(seed), "train.num_train_epochs": f"{epochs:g}"}
    return [f"{key}={value}" for key, value in (COMMON | VARIANTS[name] | own).items()]


def measure(run: Path) -> tuple[float, ExampleLosses]:
    """Held-out loss before the first step, and that of each example after the last."""
    served = load_run(run)
    sets = prepare_named_sets(served.recipe, served.tokenizer, served.model.config)
    examples = sets.evaluation[SET].examples

    def losses() -> ExampleLosses:
        return example_losses(served.model, examples, token_budget=TOKEN_BUDGET, packed=True)

    with adapter_disabled(served.model):
        before = losses()
    return before.mean, losses()


def text(
    starts: dict[str, list[float]],
    losses: dict[str, list[ExampleLosses]],
    epochs: float,
) -> str:
    """The section of docs/results.md."""
    seeds = len(losses[PLAIN])
    columns = " | ".join(f"seed {number}" for number in range(1, seeds + 1))
    lines = [
        f"| variant | loss before | loss after: {columns} | mean | against {PLAIN}, "
        "95 % interval |",
        f"|---|---|{'---|' * seeds}---|---|",
    ]
    for name, found in losses.items():
        after = " | ".join(f"{one.mean:.4f}" for one in found)
        mean = np.mean([one.mean for one in found])
        against = "" if name == PLAIN else difference(found, losses[PLAIN])
        lines.append(f"| {name} | {np.mean(starts[name]):.4f} | {after} | {mean:.4f} | {against} |")
    table = "\n".join(lines)
    return f"""Written by `{command()}`. {machine()}

`{RECIPE}` on the built-in base in NF4, r 16, alpha 32, learning rate 2e-3, {epochs:g} epoch(s), but
for what each line names. Loss: nats per token on `small_test_300`, topics that are not trained on.
"Before" is the model as its init starts it. The interval is over examples, of the difference of
losses averaged over the seeds, paired by example; how much seeds differ is seen in the columns.

{table}
"""


def difference(found: list[ExampleLosses], plain: list[ExampleLosses]) -> str:
    """The mean difference to plain QLoRA and its interval over examples."""
    weights = plain[0].weight
    values = np.stack(
        [np.mean([one.nll for one in each], axis=0) for each in (plain, found)]
    )  # (2, E)
    before, after = resampled_means(values, weights)
    low, high = central_interval(after - before)
    mean = (values[1].sum() - values[0].sum()) / weights.sum()
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
