"""The rules over made tables: the plain, the undecided, and numbers that contradict each other."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.compare.recommend import (
    SAME_COST,
    Recommendation,
    Terms,
    WayNumbers,
    best_prompting,
    break_even,
    recommend,
)

TERMS = Terms(100, 0.05, 10_000, "token_f1", True, "USD")
BASE = WayNumbers("base", "plain prompt", False, 0.2, (0.5, 0.7), 0.001, 0.0)
FEW = WayNumbers("few_shot", "few-shot", False, 0.4, (0.3, 0.5), 0.004, 0.0)
FOUND = WayNumbers("retrieval", "retrieval", False, 0.4, (0.3, 0.5), 0.004, 0.01)
TUNED = WayNumbers("tuned", "tuned", True, 0.8, (0.0, 0.0), 0.001, 20.0)
BOTH = WayNumbers("tuned_retrieval", "tuned + retrieval", True, 0.8, (-0.02, 0.03), 0.004, 20.01)


def change(way: WayNumbers, **values: object) -> WayNumbers:
    return dataclasses.replace(way, **values)


def terms(**values: object) -> Terms:
    return dataclasses.replace(TERMS, **values)


def test_tuning_wins_where_it_alone_is_good_enough_or_cheaper() -> None:
    found = recommend([BASE, FEW, FOUND, TUNED, BOTH], TERMS)
    assert (found.verdict, found.way, found.candidates) == ("recommended", "tuned", ("tuned",))
    assert found.best == "tuned" and found.good_enough == ("tuned", "tuned_retrieval")
    assert (
        "tuned is the cheapest of those good enough: 10,000 calls cost 30 USD" in found.reasons[-1]
    )
    assert any(
        "plain prompt is worse by 0.500 to 0.700: not good enough" in r for r in found.reasons
    )


def test_retrieval_wins_where_facts_are_in_documents_only() -> None:
    ways = [
        change(BASE, lost=(0.5, 0.7)),
        change(FEW, lost=(0.4, 0.6)),
        change(FOUND, quality=0.8, lost=(0.0, 0.0)),
        change(TUNED, quality=0.25, lost=(0.45, 0.65)),
        change(BOTH, quality=0.79, lost=(-0.01, 0.03)),
    ]
    found = recommend(ways, TERMS)
    assert (found.verdict, found.way) == ("recommended", "retrieval")


def test_the_plain_prompt_wins_where_nothing_else_is_better_by_more_than_the_margin() -> None:
    ways = [
        change(BASE, quality=0.78, lost=(0.01, 0.04)),  # shown to be worse, but by less than 0.05
        change(FEW, quality=0.8, lost=(0.0, 0.0)),
        change(TUNED, quality=0.79, lost=(-0.02, 0.04)),
    ]
    assert recommend(ways, TERMS).way == "base"
    # With a stricter margin the same numbers say few-shot while training costs more.
    assert recommend(ways, terms(margin=0.02, calls=1000)).way == "few_shot"
    assert recommend(ways, terms(margin=0.02)).candidates == ("tuned", "few_shot")


def test_of_equal_means_the_simplest_is_the_best() -> None:
    equal = [change(way, quality=0.3, lost=(0.0, 0.0)) for way in (BASE, FEW, FOUND, TUNED, BOTH)]
    found = recommend(equal, TERMS)
    assert found.best == found.way == "base"
    assert found.reasons[0] == (
        "token_f1 on 100 questions is the same for plain prompt, few-shot, retrieval, tuned, "
        "tuned + retrieval: 0.300"
    )
    assert found.reasons[1] == "few-shot is not worse than plain prompt: good enough"


def test_none_is_taken_where_nothing_is_right() -> None:
    """The cheapest of five ways that answer nothing was recommended."""
    ways = [change(way, quality=0.0, lost=(0.0, 0.0)) for way in (BASE, FEW, FOUND, TUNED, BOTH)]
    found = recommend(ways, terms(metric="exact_match"))
    assert (found.verdict, found.way) == ("none is good enough", None)
    assert found.good_enough == found.by_calls == () and len(found.candidates) == 5
    assert "exact_match on 100 questions is 0 for every way" in found.reasons[0]
    # One right answer is another matter; a loss of 0 is the best there is.
    assert recommend([*ways[1:], change(BASE, quality=0.01, lost=(0.0, 0.0))], TERMS).way
    assert recommend(ways, terms(higher_is_better=False)).way == "base"
    assert recommend(ways, terms(examples=3)).verdict == "too few examples to tell"


def test_ties_are_said_as_ties_and_the_simplest_of_them_is_named() -> None:
    ways = [
        BASE,
        change(FEW, quality=0.8, lost=(-0.02, 0.02), cost_per_call=0.00305),
        TUNED,
    ]
    found = recommend(ways, TERMS)
    assert (found.verdict, found.way, found.candidates) == (
        "tie",
        "few_shot",
        ("few_shot", "tuned"),
    )
    assert "few-shot is the simplest of them" in found.reasons[-1]
    assert recommend([BASE, change(ways[1], cost_per_call=0.002), TUNED], TERMS).verdict == (
        "recommended"
    )


def test_a_cheaper_way_that_may_be_as_good_is_not_passed_over() -> None:
    """The best is not shown to be better, nor the cheap one to be good enough: no verdict."""
    ways = [change(BASE, quality=0.75, lost=(-0.03, 0.13)), TUNED]
    found = recommend(ways, TERMS)
    assert (found.verdict, found.way) == ("too few examples to tell", None)
    assert found.candidates == ("base", "tuned")
    assert "more of them would tell" in found.reasons[-1]
    # It may cost more: then whether it is as good does not matter.
    dear = [change(ways[0], cost_per_call=0.1), TUNED]
    assert recommend(dear, TERMS).way == "tuned"
    # It is shown to be worse, if perhaps only by a little: the doubt is gone.
    worse = [change(ways[0], lost=(0.001, 0.13)), TUNED]
    assert recommend(worse, TERMS).way == "tuned"


@pytest.mark.parametrize("examples", [2, 19])
def test_a_handful_of_questions_tells_nothing(examples: int) -> None:
    found = recommend([BASE, TUNED], terms(examples=examples))
    assert (found.verdict, found.way) == ("too few examples to tell", None)
    assert f"{examples} questions are too few" in found.reasons[-1]


def test_losses_are_better_when_lower() -> None:
    ways = [change(BASE, quality=3.0, lost=(0.8, 1.2)), change(TUNED, quality=2.0)]
    assert recommend(ways, terms(metric="loss", higher_is_better=False)).way == "tuned"


def test_one_way_alone_is_taken() -> None:
    only = change(BASE, lost=(0.0, 0.0))
    found = recommend([only], TERMS)
    assert (found.verdict, found.way, found.by_calls) == ("recommended", "base", ((0, "base"),))


def test_how_many_calls_decide_between_set_up_and_calls() -> None:
    few = change(FEW, quality=0.8, lost=(-0.02, 0.02))
    ways = [BASE, few, TUNED]
    found = recommend(ways, TERMS)
    # 20 USD of training against 0.003 USD saved by each call.
    assert found.by_calls == ((0, "few_shot"), (6667, "tuned"))
    assert recommend(ways, terms(calls=1000)).way == "few_shot"
    assert recommend(ways, terms(calls=100_000)).way == "tuned"


def test_break_even_counts_the_calls_that_repay_the_set_up() -> None:
    assert break_even(TUNED, FEW) == 6667
    assert break_even(TUNED, BASE) is None  # the same by the call: never repaid
    # A call that is measured a little cheaper is not cheaper: its time varies by as much.
    assert break_even(change(TUNED, cost_per_call=0.00095), BASE) is None
    assert break_even(change(TUNED, cost_per_call=0.01), FEW) is None
    assert break_even(change(TUNED, setup_cost=0.0), FEW) == 0
    # Cheaper to set up and dearer by the call: it begins ahead and falls behind.
    assert break_even(change(TUNED, setup_cost=0.0, cost_per_call=1.0), FOUND) is None


def test_what_tuning_is_held_against_is_the_best_prompting_and_of_equals_the_cheapest() -> None:
    def against(*ways: WayNumbers, higher_is_better: bool = True) -> str | None:
        found = best_prompting(ways, higher_is_better=higher_is_better)
        return None if found is None else found.name

    assert against(BASE, FEW, TUNED) == "few_shot"
    assert against(BASE, FEW, change(FOUND, cost_per_call=0.003)) == "retrieval"
    assert against(BASE, FEW, higher_is_better=False) == "base"
    assert against(TUNED) is None


@pytest.mark.parametrize("share", [0.5, 0.89, 0.895, 0.9, 0.905, 0.909, 0.91, 0.95, 1.0])
def test_what_is_taken_for_its_cost_is_repaid(share: float) -> None:
    """One number says which costs are the same, in the verdict and in the break-even."""
    cheap = change(TUNED, quality=0.8, cost_per_call=share, setup_cost=0.0)
    dear = change(BASE, quality=0.8, lost=(0.0, 0.0), cost_per_call=1.0, setup_cost=0.0)
    found = recommend([dear, cheap], TERMS)
    repaid = break_even(cheap, dear)
    assert (found.verdict == "recommended") == (repaid is not None) == (share < 1 / 1.1)
    if found.verdict == "recommended":
        assert found.by_calls[-1][1] == found.way


finite = st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 3))
cost = st.floats(0, 10, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def tables(draw: st.DrawFn) -> list[WayNumbers]:
    """Any numbers, also such as contradict each other: the best losing to others, for one."""
    names = ["base", "few_shot", "retrieval", "tuned", "tuned_retrieval"]
    kept = draw(st.lists(st.sampled_from(names), min_size=1, unique=True).map(sorted))
    ways = []
    for name in kept:
        low, high = sorted((draw(finite), draw(finite)))
        ways.append(
            WayNumbers(
                name, name, "tuned" in name, draw(finite), (low, high), draw(cost), draw(cost)
            )
        )
    return ways


@given(tables(), st.integers(1, 10**6), st.integers(1, 200))
def test_the_verdict_agrees_with_the_table(
    ways: list[WayNumbers], calls: int, examples: int
) -> None:
    asked = terms(calls=calls, examples=examples)
    found: Recommendation = recommend(ways, asked)
    by_name = {way.name: way for way in ways}
    good = [by_name[name] for name in found.good_enough]
    assert by_name[found.best].quality == max(way.quality for way in ways)
    assert found.candidates and found.reasons
    if found.verdict == "none is good enough":
        assert by_name[found.best].quality <= 0 and examples >= 20
        assert found.way is None and not good and not found.by_calls
        return
    assert found.best in found.good_enough
    for way in ways:
        assert (way in good) == (way.name == found.best or way.lost[1] <= asked.margin)
    if found.way is None:
        assert found.verdict == "too few examples to tell"
    else:
        assert examples >= 20
        taken = by_name[found.way]
        assert taken in good and found.way in found.candidates
        lowest = min(way.total(calls) for way in good)
        assert taken.total(calls) <= lowest * (1 + SAME_COST)
        assert (found.verdict == "tie") == (len(found.candidates) > 1)
    # Whatever the number of calls, the step that holds then is the cheapest good one.
    for at in (0, 1, 17, 1000, 10**6):
        name = [way for start, way in found.by_calls if start <= at][-1]
        lowest = min(way.total(at) for way in good)
        assert by_name[name].total(at) <= lowest * (1 + SAME_COST) + 10  # a call, rounded up


@given(tables(), st.integers(1, 10**5))
def test_break_even_is_where_the_totals_cross(ways: list[WayNumbers], calls: int) -> None:
    one, other = ways[0], ways[-1]
    start = break_even(one, other)
    if start is not None and calls >= start:
        assert one.total(calls) <= other.total(calls) + 1e-6
    if start is not None and 0 < calls < start:
        assert one.total(calls) >= other.total(calls) - 1e-6
