"""GRPO on the built-in task: from traces to rewards, for every seed.

    python benchmarks/grpo_builtin.py [--seeds 1 2 3]

The base learns from traces (`builtin:sums_traces`, beside them a little of `builtin:general`) until
the loss on traces that it does not train on falls no longer. From there rewards alone teach:
whether the result is right, and whether the tags stand where they should. No question of GRPO was
in the traces, none is asked twice, and those that are measured are in neither. Accuracy is that of
answers as the model gives them, at temperature 1, several to each question; greedy ones stand
beside it.

Writes a section of docs/results.md and docs/images/grpo.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from grpo_stages import ADAPTER, MARGIN, SAMPLES, SETS, Seed, converged, gain, grpo_loop, one_seed
from matplotlib.figure import Figure
from page import command, machine, write_section

PLOT = Path(__file__).parents[1] / "docs" / "images" / "grpo.png"


def main() -> None:
    """Train and measure every seed, plot, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    seeds = {}
    for number in options.seeds:
        seeds[number] = one_seed(number)
        print(section(seeds), flush=True)
    plot(seeds).savefig(PLOT, dpi=110)
    write_section("GRPO on the built-in task", section(seeds))


def plot(seeds: dict[int, Seed]) -> Figure:
    """Right answers to questions asked for the first time, and their length, over the steps."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    names = ("rewards/math/mean", "completions/mean_length")
    titles = ("right answers in rollouts, each question new", "tokens of an answer")
    for panel, name, title in zip(panels, names, titles, strict=True):
        for (number, seed), style in zip(seeds.items(), ("-", "--", ":", "-."), strict=False):
            lines = seed.stages["grpo"].metrics
            values = [line[name] for line in lines]
            (drawn,) = panel.plot(
                [line["step"] for line in lines], values, style, label=f"seed {number}"
            )
            if name == names[0]:
                ends = (seed.answers[stage]["in_domain"].right.mean() for stage in ("sft", "grpo"))
                panel.plot(
                    (0, lines[-1]["step"]), list(ends), "o", color=drawn.get_color(), clip_on=False
                )
        panel.set(xlabel="GRPO step")
        panel.set_title(title, fontsize="medium")
        panel.grid(axis="y", color="0.9")
        panel.legend(frameon=False)
    panels[0].set_ylim(0, 1)
    return figure


def section(seeds: dict[int, Seed]) -> str:
    """The section of docs/results.md."""
    one = next(iter(seeds.values()))
    loop = grpo_loop(0)
    counts = {name: len(one.answers["sft"][name].digits) for name in SETS}
    longest = max(sum(v for k, v in seed.seconds.items() if k != "processor") for seed in
                  seeds.values())  # fmt: skip
    return f"""Written by `{command()}`. {machine()}

The task is `Add 347 and 285.`, to be answered as `<think>...</think><answer>632</answer>`; the sets
are those of `python -m lorakit.builtin.sums`. Two stages, r {ADAPTER.r} on every linear layer,
float32: SFT on traces that all end in the right sum, some column by column, some at once, until
three validations in a row were not lower than the best; then GRPO with {loop.batch_size}
completions a step, from rewards alone (`math`, and 0.2 for the tags). Accuracy: share of
{SAMPLES} answers to each question at temperature 1, paired by question;
{counts["in_domain"]} questions of two and three digits, {counts["out_of_domain"]} of four (out of
domain). A seed took at most
{longest:.0f} s, measuring included.

{_accuracies(seeds)}

What GRPO taught is which way to go; how well either way ends, it changes less:

{_ways(seeds)}

The warm start, and what the base could do before (`builtin:retention`, loss per token; margin
{MARGIN:g}):

{_costs(seeds)}

![Right answers and their length over the steps of GRPO](images/grpo.png)

The curve is the share of right answers in the rollouts of each step; no question comes twice, so
each was new to the model. Dots: accuracy in domain before and after.
"""


def _accuracies(seeds: dict[int, Seed]) -> str:
    lines = [
        "| seed | questions | base | after SFT | after GRPO | difference, 95 % interval | greedy: "
        "base, SFT, GRPO |",
        "|---|---|---|---|---|---|---|",
    ]
    parts = [("in_domain", None), ("in_domain", 2), ("in_domain", 3), ("out_of_domain", None)]
    for number, seed in seeds.items():
        for name, digits in parts:
            base, *_ = of = [seed.answers[stage][name] for stage in ("base", "sft", "grpo")]
            chosen = np.full(len(base.digits), True) if digits is None else base.digits == digits
            change = gain(seed, name, digits)
            low, high = change.interval
            greedy = ", ".join(f"{one.greedy[chosen].mean():.1%}" for one in of)
            title = name if digits is None else f"of {digits} digits"
            lines.append(
                f"| {number} | {title} | {base.right[chosen].mean():.1%} | {change.base:.1%} | "
                f"{change.tuned:.1%} | {100 * change.difference:+.1f} points ({100 * low:+.1f} to "
                f"{100 * high:+.1f}) | {greedy} |"
            )
    return "\n".join(lines)


def _ways(seeds: dict[int, Seed]) -> str:
    lines = [
        "| seed | questions | stage | by columns | right of those | right of the others |",
        "|---|---|---|---|---|---|",
    ]
    for number, seed in seeds.items():
        for name in SETS:
            for stage in ("sft", "grpo"):
                one = seed.answers[stage][name]
                shares = (one.by_columns, one.right_by_columns, one.right_at_once)
                told = " | ".join("none" if np.isnan(share) else f"{share:.1%}" for share in shares)
                lines.append(f"| {number} | {name} | {stage} | {told} |")
    return "\n".join(lines)


def _costs(seeds: dict[int, Seed]) -> str:
    lines = [
        "| seed | SFT steps (best) | validation loss: first, best, last | retention after SFT | "
        "after GRPO | seconds: SFT, GRPO, measuring | processor |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, seed in seeds.items():
        traces = seed.stages["sft"]
        kept = " | ".join(
            f"{change.difference:+.3f} ({change.interval[0]:+.3f} to {change.interval[1]:+.3f}), "
            f"{verdict}"
            for change, verdict in seed.retention.values()
        )
        took = ", ".join(f"{seed.seconds[part]:.0f}" for part in ("sft", "grpo", "measuring"))
        losses = ", ".join(f"{loss:.4f}" for loss in converged(seed))
        lines.append(
            f"| {number} | {traces.steps} ({traces.best_step}) | {losses} | {kept} | {took} | "
            f"{seed.seconds['processor']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
