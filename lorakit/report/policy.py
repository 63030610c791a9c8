"""What a page says of a policy gradient: its curves, samples of what it rolled out, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lorakit.report.curves import Curve, Line
from lorakit.report.files import LoggedStep, RolledOut, RunFiles
from lorakit.report.words import amount

MANY_ALIKE = 0.5  # of the completions, in groups without variance
SHOWN_SAMPLES = 6  # the last ones
RUNAWAY = 2.0  # times the length that completions began with
TOLD_STEPS = 10  # logged ones, at the end and at the beginning


def is_policy(metrics: Sequence[LoggedStep]) -> bool:
    """Whether rewards were logged."""
    return any(line.reward is not None for line in metrics)


def policy_curves(metrics: Sequence[LoggedStep]) -> list[Curve]:
    """In the place of the loss, which is near 0 whatever is learned."""
    drawn: tuple[tuple[str, str, Callable[[LoggedStep], float | None], bool], ...] = (
        ("reward", "Reward", lambda line: line.reward, False),
        ("alike", "Share in groups without variance", lambda line: line.zero_std, True),
        ("length", "Tokens of a completion", lambda line: line.mean_length, True),
        ("kl", "KL from the base, nats per token", lambda line: line.kl, True),
        ("entropy", "Entropy, nats per token", lambda line: line.entropy, True),
    )
    found = []
    for name, title, value_of, from_zero in drawn:
        points = [(line.step, value_of(line)) for line in metrics]
        known = [(step, value) for step, value in points if value is not None]
        if known:
            steps, values = map(list, zip(*known, strict=True))
            found.append(Curve(name, title, [Line("", steps, values, "tuned")], None, from_zero))
    return found


def last_samples(run: RunFiles) -> list[RolledOut]:
    """The newest completions that were kept, the last first."""
    return run.completions[::-1][:SHOWN_SAMPLES]


def policy_advice(run: RunFiles) -> Iterator[tuple[str, str]]:
    """(what was seen, what to do)."""
    if not is_policy(run.metrics):
        return
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
