"""What a page says of a policy gradient: its curves, and samples of what it rolled out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorakit.report.curves import DASHES, Curve, Line
from lorakit.report.files import RunFiles
from lorakit.report.svg import RUNS
from lorakit.report.training_files import LoggedStep, RolledOut
from lorakit.report.words import amount
from lorakit.train.completions import NOT_SCORED

SHOWN_GENERATIONS = 3  # the first, one half-way, the last

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
        if one.label == NOT_SCORED:
            continue
        kept.setdefault(one.step, []).append(one)
    steps = list(kept)
    last = len(steps) - 1
    places = sorted({round(last * n / (SHOWN_GENERATIONS - 1)) for n in range(SHOWN_GENERATIONS)})
    return [
        ShownGeneration(step, kept[step][0].prompt, kept[step][0].reference, kept[step])
        for step in (steps[place] for place in places if steps)
    ]
