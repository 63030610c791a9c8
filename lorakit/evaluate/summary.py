"""What evaluation found, in plain words: a screenful for people, the numbers are in the JSON."""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.evaluate.result import SetResult
from lorakit.evaluate.statistics import Comparison

COLUMNS = ("", "base", "tuned", "difference", "95 % interval", "better is")
FORGOTTEN = "retention"


def summary(results: Mapping[str, SetResult]) -> list[str]:
    """Lines of text: each set with its verdict, its numbers and notes, then what was forgotten."""
    lines = []
    for name, result in results.items():
        lines += [headline(name, result), *_table(result), *(f"  {note}" for note in result.notes)]
    if FORGOTTEN in results:
        lines += _forgotten(results[FORGOTTEN])
    return lines or ["nothing was evaluated: the recipe names no set in its section evaluate"]


def headline(name: str, result: SetResult) -> str:
    """`in_domain: better by token_f1 (100 examples drawn by seed out of 300)`.

    In the place of `in_domain` stands `in_domain (the validation rows)` where these serve as such.
    """
    count = result.metrics[result.primary].examples
    of = f" drawn by seed out of {result.available}" if count < result.available else ""
    rows = "" if result.same_as is None else f" (the {result.same_as} rows)"
    return f"{name}{rows}: {result.told} by {result.primary} ({count} examples{of})"


def _table(result: SetResult) -> list[str]:
    """The metrics, the one that decides first, in columns."""
    names = sorted(result.metrics, key=lambda name: name != result.primary)
    rows = [COLUMNS, *(_row(name, result.metrics[name]) for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(name: str, change: Comparison) -> tuple[str, ...]:
    low, high = change.interval
    base, tuned = change.intervals or (None, None)
    return (
        name,
        _value(change.base, base),
        _value(change.tuned, tuned),
        f"{change.difference:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        "higher" if change.higher_is_better else "lower",
    )


def _value(value: float, interval: tuple[float, float] | None) -> str:
    """With what it may be on other examples, where that is known."""
    if interval is None:
        return f"{value:.4f}"
    low, high = interval
    return f"{value:.4f} ({low:.3f} to {high:.3f})"


def _forgotten(result: SetResult) -> list[str]:
    if not result.forgotten and not result.metrics["loss"].is_finite:
        return ["what was forgotten: not known, losses are no numbers"]
    if not result.forgotten:
        return ["what was forgotten: nothing, no retention example has a higher loss than before"]
    lines = ["what was forgotten: the retention examples whose loss rose most"]
    for example in result.forgotten:
        change = f"{example.base:.3f} -> {example.tuned:.3f}"
        place = example.where.rpartition("/")[2]  # the whole path is in the JSON
        lines.append(f"  {change}  {example.text!r} ({place})")
    return lines
