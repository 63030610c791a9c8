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
from grpo_stages import (
    ADAPTER,
    MARGIN,
    SAMPLES,
    SETS,
    Seed,
    gain,
    grpo_loop,
    one_seed,
    sft_config,
    validation_losses,
)
from matplotlib.figure import Figure
from page import command, machine, write_section

from lorakit.builtin.sums import CARRIED_SHARE, DIGITS, LONGER

PLOT = Path(__file__).parents[1] / "docs" / "images" / "grpo.png"


def main() -> None:
    """Train and measure every seed, plot, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--keep", type=Path, help="folder of finished seeds, which run only once")
    parser.add_argument("--steps", type=int, help="of each stage at most, to try the script out")
    parser.add_argument("--questions", type=int, help="of each set, likewise")
    options = parser.parse_args()
    seeds = {}
    for number in options.seeds:
        seeds[number] = kept_seed(number, options)
        print(section(seeds), flush=True)
    plot(seeds).savefig(PLOT, dpi=110)
    write_section("GRPO on the built-in task", section(seeds))


def kept_seed(number: int, options: argparse.Namespace) -> Seed:
    """A seed that ran before, or runs now."""
    place = None if options.keep is None else options.keep / f"seed-{number}.json"
    if place is not None and place.is_file():
        return Seed.read(place)
    seed = one_seed(number, steps=options.steps, asked=options.questions)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        seed.write(place)
    return seed


def plot(seeds: dict[int, Seed]) -> Figure:
    """Right answers to questions asked for the first time, and groups that teach nothing."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    names = ("rewards/math/mean", "frac_reward_zero_std")
    titles = ("right answers in rollouts, each question new", "groups whose rewards are all alike")
    for panel, name, title in zip(panels, names, titles, strict=True):
        for (number, seed), style in zip(seeds.items(), ("-", "--", ":", "-."), strict=False):
            lines = seed.metrics["grpo"]
            values = [line[name] for line in lines]
            (drawn,) = panel.plot(
                [line["step"] for line in lines], values, style, label=f"seed {number}"
            )
            if name == names[0]:
                ends = (
                    np.mean(seed.answers[stage]["in_domain"].right) for stage in ("sft", "grpo")
                )
                panel.plot(
                    (0, lines[-1]["step"]), list(ends), "o", color=drawn.get_color(), clip_on=False
                )
        panel.set(xlabel="GRPO step")
        panel.set_title(title, fontsize="medium")
        panel.grid(axis="y", color="0.9")
        panel.legend(frameon=False)
    for panel in panels:
        panel.set_ylim(0, 1)
    return figure


def section(seeds: dict[int, Seed]) -> str:
    """The section of docs/results.md."""
    one = next(iter(seeds.values()))
    loop, warm = grpo_loop(0), sft_config(0)
    counts = {name: len(one.answers["sft"][name].digits) for name in SETS}
    longest = max(seed.seconds["processor"] for seed in seeds.values())
    return f"""Written by `{command()}`. {machine()}

The task is `Add 705 and 863.`, to be answered with the columns inside `<think>` and the result
inside `<answer>`; the sets are those of `python -m lorakit.builtin.sums`. Two stages, r
{ADAPTER.r} on every linear layer, float32: SFT on traces of which {CARRIED_SHARE:.0%} carry and the
others forget to, until {warm.early_stopping_patience} validations in a row were not lower than the
best by more than {warm.early_stopping_threshold:g}, or for {warm.num_train_epochs:g} epochs; then
{loop.max_steps} steps of GRPO with {loop.batch_size} completions each, from rewards alone (`math`,
and 0.2 for the tags). Accuracy: share of {SAMPLES} answers to each question at temperature 1,
paired by question; {counts["in_domain"]} questions of {" or ".join(map(str, DIGITS))} digits in
domain, {counts["out_of_domain"]} of {LONGER} out of domain. A seed took at most {longest:.0f} s
of processor time, measuring included; seconds of the clock tell of what else ran, too.

{_accuracies(seeds)}

What the rewards taught is to carry, and less so how to do it right:

{_ways(seeds)}

The warm start, and what the base could do before (`builtin:retention`, loss per token; margin
{MARGIN:g}):

{_costs(seeds)}

![Right answers, and groups without variance, over the steps of GRPO](images/grpo.png)

The curve is the share of right answers in the rollouts of each step; no question comes twice, so
each was new to the model. Dots: accuracy in domain before and after.
"""


def _accuracies(seeds: dict[int, Seed]) -> str:
    lines = [
        "| seed | questions | base | after SFT | after GRPO | difference, 95 % interval | greedy: "
        "base, SFT, GRPO |",
        "|---|---|---|---|---|---|---|",
    ]
    parts = [("in_domain", None), *(("in_domain", one) for one in DIGITS)]
    for number, seed in seeds.items():
        for name, digits in (*parts, ("out_of_domain", None)):
            of = [seed.answers[stage][name].of_digits(digits) for stage in ("base", "sft", "grpo")]
            change = gain(seed, name, digits)
            low, high = change.interval
            greedy = ", ".join(f"{right.mean():.1%}" for _, right in of)
            title = name if digits is None else f"of {digits} digits"
            lines.append(
                f"| {number} | {title} | {of[0][0].mean():.1%} | {change.base:.1%} | "
                f"{change.tuned:.1%} | {100 * change.difference:+.1f} points ({100 * low:+.1f} to "
                f"{100 * high:+.1f}) | {greedy} |"
            )
    return "\n".join(lines)


def _ways(seeds: dict[int, Seed]) -> str:
    lines = [
        "| seed | questions | stage | carries where needed | right of those | right where no carry "
        "is needed |",
        "|---|---|---|---|---|---|",
    ]
    for number, seed in seeds.items():
        for name in SETS:
            for stage in ("sft", "grpo"):
                one = seed.answers[stage][name]
                shares = (one.carries, one.right_carrying, one.right_without)
                told = " | ".join("none" if share is None else f"{share:.1%}" for share in shares)
                lines.append(f"| {number} | {name} | {stage} | {told} |")
    return "\n".join(lines)


def _costs(seeds: dict[int, Seed]) -> str:
    lines = [
        "| seed | SFT steps (best) | validation losses | retention after SFT | "
        "after GRPO | seconds: SFT, GRPO, measuring | processor |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, seed in seeds.items():
        kept = " | ".join(
            f"{one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f}), {one.verdict}"
            for one in seed.retention.values()
        )
        took = ", ".join(f"{seed.seconds[part]:.0f}" for part in ("sft", "grpo", "measuring"))
        losses = ", ".join(f"{loss:.4f}" for loss in validation_losses(seed))
        steps = seed.metrics["sft"][-1]["step"]
        lines.append(
            f"| {number} | {steps} ({seed.best_step}) | {losses} | {kept} | {took} | "
            f"{seed.seconds['processor']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
