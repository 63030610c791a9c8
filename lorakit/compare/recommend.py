"""Which way to take: rules over the numbers of the table, and nothing else.

1. Under MIN_EXAMPLES questions nothing can be told; where every way has 0 in a metric of which more
   is better, none is good enough, whatever it costs.
2. The best way is the one with the best mean; of equal ones the one that is simpler to set up.
3. Good enough is a way whose interval of what it loses against the best excludes more than the
   margin (non-inferiority). The best is good enough by itself.
4. Of these the cheapest wins, set-up spread over the calls. Those within SAME_COST of it are ties,
   of which the simplest is named.
5. But where a way that is cheaper than that was neither shown to be good enough nor shown to be
   worse (its interval holds no loss as well as more than the margin), the examples are too few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lorakit.evaluate.statistics import MIN_EXAMPLES, TOO_FEW

Verdict = Literal["recommended", "tie", "too few examples to tell", "none is good enough"]
RECOMMENDED: Verdict = "recommended"
TIE: Verdict = "tie"
TOO_FEW_TO_TELL: Verdict = "too few examples to tell"
NONE_GOOD: Verdict = "none is good enough"
assert TOO_FEW_TO_TELL == TOO_FEW

# Costs rest on times measured on a machine that does other things too; within this share of each
# other they are the same.
SAME_COST = 0.1
NOTHING_TO_REPAY = (
    "no way without training is shown to be good enough: there is none to break even with"
)


@dataclass(frozen=True)
class WayNumbers:
    """A row of the table, as far as the rules look at it.

    Attributes:
        name, title: of the way, in JSON and for people.
        is_tuned: whether it needs training.
        quality: mean of the primary metric.
        lost: the interval of how much it loses against the best way, in the metric's unit; negative
            where it gains; (0, 0) for the best itself.
        cost_per_call, setup_cost: in one unit.
    """

    name: str
    title: str
    is_tuned: bool
    quality: float
    lost: tuple[float, float]
    cost_per_call: float
    setup_cost: float

    def total(self, calls: float) -> float:
        """Set-up and so many calls."""
        return self.setup_cost + calls * self.cost_per_call


@dataclass(frozen=True)
class Terms:
    """What the rules are to weigh by.

    Attributes:
        examples: questions that were answered.
        margin: loss that a cheaper way may have, in the primary metric's unit.
        calls: over which set-up is spread.
        metric: name of the primary metric.
        higher_is_better: whether more of it is better.
        unit: of the costs, such as USD.
    """

    examples: int
    margin: float
    calls: int
    metric: str
    higher_is_better: bool
    unit: str


@dataclass(frozen=True)
class Recommendation:
    """What follows.

    Attributes:
        verdict: recommended, a tie, too few examples, or none that is good enough.
        way: the one to take; None where the examples are too few or none is good enough.
        candidates: ways between which nothing was decided; `way` alone where it was.
        best: the way with the best mean.
        good_enough: ways that are not worse than it by more than the margin, or it; none where it
            is not.
        by_calls: [(from so many calls on, the cheapest way that is good enough)].
        reasons: the numbers it rests on, in sentences.
    """

    verdict: Verdict
    way: str | None
    candidates: tuple[str, ...]
    best: str
    good_enough: tuple[str, ...]
    by_calls: tuple[tuple[int, str], ...]
    reasons: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The shape in compare.json."""
        return {
            "verdict": self.verdict,
            "way": self.way,
            "candidates": list(self.candidates),
            "best": self.best,
            "good_enough": list(self.good_enough),
            "by_calls": [{"from": calls, "way": way} for calls, way in self.by_calls],
            "reasons": list(self.reasons),
        }


def best_of(ways: Sequence[tuple[str, float]], *, higher_is_better: bool) -> str:
    """The name with the best mean out of (name, mean); of equals the first."""
    sign = 1 if higher_is_better else -1
    return max(ways, key=lambda one: sign * one[1])[0]


def recommend(ways: Sequence[WayNumbers], terms: Terms) -> Recommendation:
    """Apply the rules.

    Args:
        ways: one at least, simplest first; all numbers finite.
        terms: margin, calls and what to call things.
    """
    name = best_of(
        [(way.name, way.quality) for way in ways], higher_is_better=terms.higher_is_better
    )
    best = next(way for way in ways if way.name == name)
    if terms.examples >= MIN_EXAMPLES and terms.higher_is_better and best.quality <= 0:
        nothing = _of_nothing(ways, terms)
        return Recommendation(NONE_GOOD, None, names_of(ways), best.name, (), (), nothing)
    good = [way for way in ways if way is best or way.lost[1] <= terms.margin]
    cheapest = min(good, key=lambda way: way.total(terms.calls))
    limit = cheapest.total(terms.calls) * (1 + SAME_COST)
    tied = [way for way in good if way.total(terms.calls) <= limit]
    # A clear saving over all that would do, of a way that may or may not do.
    unclear = [
        way
        for way in ways
        if way not in good
        and way.lost[0] <= 0
        and way.total(terms.calls) * (1 + SAME_COST) < cheapest.total(terms.calls)
    ]
    reasons = [_of_best(best, ways, terms), *_of_others(best, ways, good, terms)]
    names = names_of(good)
    by_calls = _cheapest_by_calls(good)

    def decided(
        verdict: Verdict, way: WayNumbers | None, candidates: Sequence[WayNumbers], reason: str
    ) -> Recommendation:
        told = (*reasons, reason)
        named = None if way is None else way.name
        return Recommendation(
            verdict, named, names_of(candidates), best.name, names, by_calls, told
        )

    if terms.examples < MIN_EXAMPLES:
        few = f"{terms.examples} questions are too few: a verdict needs {MIN_EXAMPLES}"
        return decided(TOO_FEW_TO_TELL, None, ways, few)
    if unclear:
        return decided(TOO_FEW_TO_TELL, None, [*unclear, cheapest], _of_unclear(unclear, cheapest))
    if len(tied) > 1:
        return decided(TIE, tied[0], tied, _of_tie(tied, terms))
    return decided(RECOMMENDED, cheapest, [cheapest], _of_cheapest(cheapest, good, terms))


def names_of(ways: Sequence[WayNumbers]) -> tuple[str, ...]:
    """Their names in JSON."""
    return tuple(way.name for way in ways)


def break_even(way: WayNumbers, other: WayNumbers) -> int | None:
    """Calls from which on `way` has cost less than `other`; 0: from the first; None: never.

    Calls that cost the same within SAME_COST save nothing that was really measured.
    """
    if way.cost_per_call * (1 + SAME_COST) >= other.cost_per_call:  # as `recommend` has it
        return None
    more = way.setup_cost - other.setup_cost
    return max(0, math.ceil(more / (other.cost_per_call - way.cost_per_call)))


def never_repaid(title: str, other: str) -> str:
    """In words, that there is no such number of calls; of two ways by their titles."""
    return (
        f"{title} costs as much by the call as {other}, within {SAME_COST:.0%}, or more: its "
        "set-up is never repaid"
    )


def best_prompting(ways: Sequence[WayNumbers], *, higher_is_better: bool) -> WayNumbers | None:
    """The best of the ways that need no training; of equals the cheapest by the call."""
    prompting = sorted((way for way in ways if not way.is_tuned), key=lambda way: way.cost_per_call)
    if not prompting:
        return None
    named = [(way.name, way.quality) for way in prompting]
    name = best_of(named, higher_is_better=higher_is_better)
    return next(way for way in prompting if way.name == name)


def _cheapest_by_calls(good: Sequence[WayNumbers]) -> tuple[tuple[int, str], ...]:
    """From how many calls on which way is the cheapest, but for differences within SAME_COST."""
    current = min(good, key=lambda way: (way.setup_cost, way.cost_per_call))
    steps = {0: current.name}
    while True:
        later = [
            (calls, way.cost_per_call, place)
            for place, way in enumerate(good)
            if (calls := break_even(way, current)) is not None
        ]
        if not later:
            return tuple(steps.items())
        calls, _, place = min(later)
        current = good[place]
        steps[max(calls, *steps)] = current.name


def _of_nothing(ways: Sequence[WayNumbers], terms: Terms) -> tuple[str, ...]:
    whose = "for every way" if len(ways) > 1 else f"for {ways[0].title}"
    return (
        f"{terms.metric} on {terms.examples} questions is 0 {whose}: nothing is right by it, so "
        "that it tells no way from another, and costs decide nothing",
        "the loss of the right answers would tell them apart (evaluate.primary: loss); look at "
        "some answers, whether they are as useless as it says",
    )


def _of_best(best: WayNumbers, ways: Sequence[WayNumbers], terms: Terms) -> str:
    equal = [way for way in ways if way.quality == best.quality]
    others = ", ".join(f"{way.title} {way.quality:.3f}" for way in ways if way not in equal)
    how = "best" if len(equal) < len(ways) or len(ways) == 1 else "the same"
    named = ", ".join(way.title for way in equal)
    means = f"{terms.metric} on {terms.examples} questions is {how} for {named}"
    return f"{means}: {best.quality:.3f}" + (f" ({others})" if others else "")


def _of_others(
    best: WayNumbers, ways: Sequence[WayNumbers], good: Sequence[WayNumbers], terms: Terms
) -> list[str]:
    """Whether each way is good enough, and by which numbers."""
    told = []
    for way in ways:
        if way is best:
            continue
        low, high = way.lost
        if way in good:
            most = (
                f"worse by at most {high:.3f}, {terms.margin:g} is allowed"
                if high > 0
                else f"not worse than {best.title}"
            )
            told.append(f"{way.title} is {most}: good enough")
        elif low > 0:
            told.append(f"{way.title} is worse by {low:.3f} to {high:.3f}: not good enough")
        else:
            told.append(
                f"{way.title} may be as good as {best.title} or worse by up to {high:.3f}, "
                f"{terms.margin:g} is allowed: not known"
            )
    return told


def _money(amount: float, unit: str) -> str:
    return f"{amount:,.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"


def _of_tie(tied: Sequence[WayNumbers], terms: Terms) -> str:
    costs = ", ".join(f"{way.title} {_money(way.total(terms.calls), terms.unit)}" for way in tied)
    return (
        f"over {terms.calls:,} calls these cost the same within {SAME_COST:.0%}, set-up included: "
        f"{costs}; {tied[0].title} is the simplest of them"
    )


def _of_cheapest(cheapest: WayNumbers, good: Sequence[WayNumbers], terms: Terms) -> str:
    cost = _money(cheapest.total(terms.calls), terms.unit)
    if len(good) == 1:
        return (
            f"only {cheapest.title} is good enough; {terms.calls:,} calls cost {cost}, set-up "
            "included"
        )
    others = ", ".join(
        f"{way.title} {_money(way.total(terms.calls), terms.unit)}"
        for way in good
        if way is not cheapest
    )
    return (
        f"{cheapest.title} is the cheapest of those good enough: {terms.calls:,} calls cost "
        f"{cost}, set-up included ({others})"
    )


def _of_unclear(unclear: Sequence[WayNumbers], cheapest: WayNumbers) -> str:
    named = " and ".join(way.title for way in unclear)
    is_are = "is" if len(unclear) == 1 else "are"
    return (
        f"{named} {is_are} cheaper than {cheapest.title}, and whether good enough cannot be told "
        "from so few questions; more of them would tell"
    )
