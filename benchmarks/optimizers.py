"""What every optimizer costs and whether 8 bits train as well: step time, bytes, loss curves.

    python benchmarks/optimizers.py [--millions 1 10 50] [--steps 40] [--seeds 1 2 3]

Times are of the update alone, on random gradients, paged forms with a budget of a tenth of their
state; torch's own AdamW, and bitsandbytes' where it is installed, are beside them. Loss curves are
of the demo's recipe on the built-in base, for the first `--steps` steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from page import machine, write_section
from torch import nn

from lorakit.adapters.attach import attach_adapter
from lorakit.base.from_recipe import load_base_of
from lorakit.data.named_sets import prepare_named_sets
from lorakit.optimizers import forms
from lorakit.optimizers.adamw import AdamWRule
from lorakit.optimizers.optimizer import AdamW
from lorakit.optimizers.state_plan import plan_state
from lorakit.recipe import load_recipe
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings

RECIPE = Path(__file__).parents[1] / "recipes" / "demo.yaml"
WIDTH, RANK = 1024, 16  # of the layers whose A and B are updated
TIMED_STEPS = 5
LAST = 10  # steps whose mean loss is compared
CURVES = ("adamw_torch", "adamw_8bit")


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    costs = cost_table(options.millions)
    print(costs, flush=True)
    curves = {
        (optim, seed): loss_curve(optim, seed, options.steps)
        for seed in options.seeds
        for optim in CURVES
    }
    text = section(costs, curve_table(curves), verdict(curves), options.steps)
    print(text)
    write_section("Optimizers", text)


def cost_table(millions: list[int]) -> str:
    """Markdown: a line for each number of parameters and optimizer."""
    lines = [
        "| parameters | optimizer | ms per step, median | lowest - highest | state MB "
        "| % of float32 | on the device MB | pages in, out per step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in millions:
        for name in forms.names():
            lines.append(f"| {count} M | {name} | {ours(name, count)} |")
        for name, make in peers().items():
            parameters = list(factors(count).values())
            times = timed(parameters, make(parameters).step)
            lines.append(f"| {count} M | {name} | {in_words(times)} | | | | |")
    return "\n".join(lines)


def factors(millions: int) -> dict[str, nn.Parameter]:
    """A and B of as many layers as it takes."""
    shapes = {"A": (RANK, WIDTH), "B": (WIDTH, RANK)}
    return {
        f"{layer}.{name}": nn.Parameter(torch.randn(shape))
        for layer in range(millions * 10**6 // (2 * RANK * WIDTH))
        for name, shape in shapes.items()
    }


def ours(name: str, millions: int) -> str:
    """The line of one of our optimizers."""
    parameters = factors(millions)
    whole = plan_state(parameters, optim=name).layout
    memory = max(whole.state_bytes // 10, whole.smallest_budget)
    plan = plan_state(parameters, optim=name, memory=memory if forms.form(name).PAGED else None)
    optimizer = AdamW(parameters, plan, rule=AdamWRule(weight_decay=0.01))
    loss = torch.zeros(())
    times = timed(list(parameters.values()), lambda: optimizer.step(1e-4, loss))
    facts = {name: fact for name, fact in optimizer.facts().items() if isinstance(fact, int)}
    moved = [facts[key] / optimizer.num_steps for key in ("pages_in", "pages_out")]
    share = facts["state_bytes"] / (8 * sum(p.numel() for p in parameters.values()))
    return (
        f"{in_words(times)} | {facts['state_bytes'] / 1e6:,.1f} | {100 * share:.1f} "
        f"| {facts['peak_bytes'] / 1e6:,.1f} | {moved[0]:.0f}, {moved[1]:.0f} of {facts['pages']}"
    )


def peers() -> dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]:
    """Optimizers of other packages, those that are installed."""
    found: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
        "torch.optim.AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4)
    }
    if importlib.util.find_spec("bitsandbytes"):
        import bitsandbytes

        found["bitsandbytes AdamW8bit"] = lambda parameters: bitsandbytes.optim.AdamW8bit(
            parameters, lr=1e-4
        )
    return found


def timed(parameters: list[nn.Parameter], step: Callable[[], object]) -> list[float]:
    """Milliseconds of each step but the first."""
    times = []
    for _ in range(1 + TIMED_STEPS):
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.normal_()
        started = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - started))
    return times[1:]


def in_words(times: list[float]) -> str:
    """Median, and the spread beside it."""
    return f"{statistics.median(times):,.1f} | {min(times):,.1f} - {max(times):,.1f}"


def loss_curve(optim: str, seed: int, steps: int) -> np.ndarray:
    """The loss of every step of the demo's recipe."""
    options = {"optim": optim, "seed": seed, "logging_steps": 1, "max_steps": steps}
    recipe = load_recipe(RECIPE, [f"train.{name}={value}" for name, value in options.items()])
    model, tokenizer = load_base_of(recipe.base)
    sets = prepare_named_sets(recipe, tokenizer, model.config)
    attach_adapter(model, recipe.adapter, seed=seed)
    outcome = train(
        model,
        sets.train.examples,
        LoopSettings.from_section(recipe.train, packing=recipe.data.packing),
        repeats=sets.train.repeats,
    )
    print(f"{optim}, seed {seed}: {outcome.loss:.4f}, {outcome.optimizer}", flush=True)
    return np.array([line["loss"] for line in outcome.metrics])


def curve_table(curves: dict[tuple[str, int], np.ndarray]) -> str:
    """Markdown: a line for each seed."""
    lines = [
        f"| seed | adamw_torch, mean of the last {LAST} | adamw_8bit | difference "
        "| largest difference at any step |",
        "|---|---|---|---|---|",
    ]
    for seed in dict.fromkeys(seed for _, seed in curves):
        exact, ours = (curves[optim, seed] for optim in CURVES)
        ends = [curve[-LAST:].mean() for curve in (exact, ours)]
        lines.append(
            f"| {seed} | {ends[0]:.4f} | {ends[1]:.4f} | {ends[1] - ends[0]:+.4f} "
            f"| {np.abs(ours - exact).max():.4f} |"
        )
    return "\n".join(lines)


def verdict(curves: dict[tuple[str, int], np.ndarray]) -> str:
    """Whether the difference is within the noise of the seeds."""
    seeds = list(dict.fromkeys(seed for _, seed in curves))
    exact, ours = (
        np.array([curves[optim, seed][-LAST:].mean() for seed in seeds]) for optim in CURVES
    )
    largest = np.abs(ours - exact).max()
    if len(seeds) < 2:
        return f"The largest difference is {largest:.4f}; one seed tells nothing about noise."
    noise = exact.std(ddof=1)
    return (
        f"The standard deviation of adamw_torch between seeds is {noise:.4f}; the largest "
        f"difference between the two optimizers on one seed is {largest:.4f}: "
        f"{'within' if largest < noise else 'NOT within'} the noise."
    )


def section(costs: str, curves: str, judged: str, steps: int) -> str:
    """The section of docs/results.md."""
    command = f"python benchmarks/optimizers.py {shlex.join(sys.argv[1:])}".strip()
    return f"""Written by `{command}`. {machine()} {torch.get_num_threads()} thread(s).

The update alone, {TIMED_STEPS} steps after one that warms up; A and B of layers of {WIDTH} x \
{WIDTH} at rank {RANK}. Paged forms may keep a tenth of their state on the device, which on a CPU \
is the same memory: what is shown is what the copies cost.

{costs}

Loss of the first {steps} steps of `recipes/demo.yaml` (built-in base, NF4, DoRA, r 16):

{curves}

{judged}
"""


if __name__ == "__main__":
    main()
