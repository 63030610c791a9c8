"""What a page says of a policy gradient: its curves, samples of what it rolled out, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.report.curves import DASHES, Curve, Line, is_policy
from lorakit.report.files import LoggedStep, RolledOut, RunFiles
from lorakit.report.svg import RUNS
from lorakit.report.words import amount
from lorakit.train.metrics import read_metrics
from lorakit.train.policy_watch import PolicyWatch

MANY_ALIKE = 0.5  # of the completions, in groups without variance
SHOWN_GENERATIONS = 3  # the first, one half-way, the last
RUNAWAY = 2.0  # times the length that completions began with
TOLD_STEPS = 10  # logged ones, at the end and at the beginning
REWARD_GAMED = "reward-gamed"  # the id of that finding of the watch

ValueOf = Callable[[LoggedStep], float | None]


def policy_curves(metrics: Sequence[LoggedStep]) -> list[Curve]:
    """In the place of the loss, which is near 0 whatever is learned."""
    names = dict.fromkeys(name for line in metrics for name in line.reward_means)
    parts = dict.fromkeys(name for line in metrics for name in line.spent)
    drawn: tuple[tuple[str, str, dict[str, ValueOf], bool], ...] = (
        ("reward", "Reward", {"": lambda line: line.reward}, False),
        # A single one is the reward, but for its weight.
        (
            "rewards",
            "Each reward, not weighted",
            {name: _mean_of(name) for name in names} if len(names) > 1 else {},
            False,
        ),
        ("alike", "Share in groups without variance", {"": lambda line: line.zero_std}, True),
        ("kl", "KL from the base, nats per token", {"": lambda line: line.kl}, True),
        ("clipped", "Share of clipped ratios", {"": _clipped}, True),
        (
            "entropy",
            "Entropy of trained completions, nats per token",
            {"": lambda line: line.entropy},
            True,
        ),
        ("length", "Tokens of a completion", {"": lambda line: line.mean_length}, True),
        ("truncated", "Share of completions cut off", {"": lambda line: line.truncated}, True),
        (
            "mismatch",
            "Sampler against training on trained completions, nats per token",
            {"": lambda line: line.mismatch},
            True,
        ),
        ("spent", "Seconds of a logged step", {name: _spent_on(name) for name in parts}, True),
    )
    found = []
    for name, title, values, from_zero in drawn:
        lines = [
            line
            for place, (label, value_of) in enumerate(values.items())
            if (line := _line(metrics, label, value_of, place if label else None)) is not None
        ]
        if lines:
            # Of some 1e-7, which would be a long row of zeros.
            ticks = amount if name == "mismatch" else None
            found.append(Curve(name, title, lines, ticks, from_zero))
    return found


def _line(
    metrics: Sequence[LoggedStep], label: str, value_of: ValueOf, place: int | None
) -> Line | None:
    """A curve of the lines that have the value; None where none has.

    Args:
        place: among those of its plot; None: it is alone.
    """
    points = [(line.step, value_of(line)) for line in metrics]
    known = [(step, value) for step, value in points if value is not None]
    if not known:
        return None
    steps, values = map(list, zip(*known, strict=True))
    if place is None:
        return Line(label, steps, values, "tuned")
    return Line(label, steps, values, RUNS[place % len(RUNS)], DASHES[place % len(DASHES)])


def _mean_of(name: str) -> ValueOf:
    return lambda line: line.reward_means.get(name)


def _spent_on(name: str) -> ValueOf:
    return lambda line: line.spent.get(name)


def _clipped(line: LoggedStep) -> float | None:
    return line.clipped if line.clipped_of_cispo is None else line.clipped_of_cispo


@dataclass(frozen=True)
class ShownGeneration:
    """Completions of one question, by which the page shows what a generation was like.

    Attributes:
        step: the first that learned from it.
        prompt, reference: of the question.
        completions: the best, a typical and the worst, or fewer where these are the same.
    """

    step: int
    prompt: str
    reference: str
    completions: list[RolledOut]


def shown_generations(run: RunFiles) -> list[ShownGeneration]:
    """The first, one half-way and the last of those that were kept: what the run has changed."""
    kept: dict[int, list[RolledOut]] = {}
    for one in run.completions:
        kept.setdefault(one.step, []).append(one)
    steps = list(kept)
    last = len(steps) - 1
    places = sorted({round(last * n / (SHOWN_GENERATIONS - 1)) for n in range(SHOWN_GENERATIONS)})
    return [
        ShownGeneration(step, kept[step][0].prompt, kept[step][0].reference, kept[step])
        for step in (steps[place] for place in places if steps)
    ]


def policy_advice(run: RunFiles) -> Iterator[tuple[str, str]]:
    """(what was seen, what to do)."""
    if not is_policy(run.metrics):
        return
    yield from _gamed(run)
    alike = [line.zero_std for line in run.metrics if line.zero_std is not None][-TOLD_STEPS:]
    if alike and sum(alike) / len(alike) > MANY_ALIKE:
        yield (
            f"At the end {sum(alike) / len(alike):.0%} of the completions were in groups whose "
            "rewards were all alike, of which nothing is learned.",
            "Where nearly all are right, take harder questions; where nearly all are wrong, easier "
            "ones, a warm start, or a reward that tells half right from wrong. More "
            "grpo.num_generations vary more.",
        )
    lengths = [line.mean_length for line in run.metrics if line.mean_length is not None]
    if len(lengths) >= 2 * TOLD_STEPS:
        first, last = (
            sum(part) / len(part) for part in (lengths[:TOLD_STEPS], lengths[-TOLD_STEPS:])
        )
        if last > RUNAWAY * first:
            yield (
                f"Completions grew from {amount(first)} to {amount(last)} tokens.",
                "Look at the samples: if they ramble, loss_type dr_grpo, "
                "grpo.mask_truncated_completions or a reward of brevity holds against it.",
            )


def _gamed(run: RunFiles) -> Iterator[tuple[str, str]]:
    """What was said of it while the run went on, by the same rule."""
    rewards = [] if run.recipe is None else run.recipe.grpo.named_rewards
    if not rewards:
        return
    watch = PolicyWatch({one.name: one.weight for one in rewards})
    lines: list[dict[str, Any]] = []
    for line in read_metrics(run.folder.metrics):
        lines.append(line)
        for found in watch.look(lines):
            if found.id == REWARD_GAMED:
                saw, _, do = found.message.partition(". ")
                yield f"{saw[0].upper()}{saw[1:]} (seen at step {found.step}).", f"{do}."
