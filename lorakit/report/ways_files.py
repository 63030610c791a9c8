"""RUN/compare.json and RUN/compare_answers.jsonl as the page of `lorakit compare` reads them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from lorakit.report.order import Told
from lorakit.report.part import Part


class Difference(Part):
    """A mean's distance from another way's, and its interval."""

    difference: float
    interval: tuple[float, float]


class Quality(Part):
    """One metric of one way."""

    mean: float
    interval: tuple[float, float]
    against_base: Difference | None = None
    against_best: Difference | None = None


class Tokens(Part):
    """Means per call."""

    prompt: float
    answer: float


class Latency(Part):
    """Seconds of single calls."""

    calls: int
    median: float
    p95: float
    first_token: float | None = None
    search: float | None = None


class Setup(Part):
    """What is paid once."""

    seconds: dict[str, float] = Field(default_factory=dict)
    cost: float | None = None


class Way(Part):
    """One way to answer, measured."""

    title: str
    metrics: Annotated[dict[str, Quality], Told]
    tokens: Tokens | None = None
    examples_in_prompt: float | None = None
    documents_in_prompt: float | None = None
    answers_cut: int | None = None
    answers_citing: int | None = None
    latency_seconds: Latency | None = None
    calls_per_second: float | None = None
    cost_per_1000_calls: float | None = None
    setup: Setup = Setup()


class CostBasis(Part):
    """What costs are reckoned in, in words."""

    unit: str
    call: str
    setup: str


class BreakEven(Part):
    """{tuned way: calls from which on it has cost less than `against`; None: never}."""

    against: str | None = None
    calls: dict[str, int | None] = Field(default_factory=dict)


class Cheapest(Part):
    """The cheapest good way from so many calls on."""

    from_calls: int = Field(alias="from")
    way: str


class Recommended(Part):
    """The verdict, and the sentences it follows from."""

    verdict: str
    way: str | None = None
    candidates: tuple[str, ...] = ()
    best: str | None = None
    good_enough: tuple[str, ...] = ()
    by_calls: tuple[Cheapest, ...] = ()
    reasons: tuple[str, ...] = ()


class Documents(Part):
    files: int
    chunks: int


def _some(ways: dict[str, Way]) -> dict[str, Way]:
    if not ways:
        raise ValueError("no way was measured")
    return ways


class WaysFile(Part):
    """compare.json."""

    set: str = "in_domain"
    examples: int
    available: int | None = None
    primary: str
    higher_is_better: dict[str, bool] = Field(default_factory=dict)
    margin: float | None = None
    calls: int | None = None
    ways: Annotated[dict[str, Way], AfterValidator(_some)]
    not_measured: dict[str, str] = Field(default_factory=dict)
    cost_basis: CostBasis | None = None
    break_even: BreakEven = BreakEven()
    recommendation: Recommended
    notes: tuple[str, ...] = ()
    run: str | None = None
    base: str | None = None
    machine: str | None = None
    commit: str | None = None
    documents: Documents | None = None

    def is_higher_better(self, metric: str) -> bool:
        """Whether more of a metric is better."""
        return self.higher_is_better.get(metric, metric not in ("loss", "perplexity"))

    def title(self, way: str) -> str:
        """A way's name for people."""
        return self.ways[way].title if way in self.ways else way.replace("_", " ")


class Source(Part):
    """A passage that was in the prompt; `text` where it is known."""

    number: int
    source: str
    score: float | None = None
    text: str | None = None


class WayAnswer(Part):
    """What one way answered."""

    answer: str
    scores: dict[str, float] = Field(default_factory=dict)
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    examples: int | None = None
    sources: tuple[Source, ...] = ()


class Answered(Part):
    """One line of compare_answers.jsonl."""

    index: int
    where: str = ""
    question: str
    reference: str
    ways: dict[str, WayAnswer]
