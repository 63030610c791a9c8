"""What is measured on every set, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorakit import tasks
from lorakit.data.variants import source_and_variant
from lorakit.errors import RecipeError
from lorakit.evaluate.judge import LOSS_METRICS
from lorakit.evaluate.sampling import Sampling
from lorakit.evaluate.win_rate import PairJudge
from lorakit.recipe import EvaluateSection
from lorakit.recipe.metric_names import CHOICES, KL, WIN_RATE

# Metrics that need no answer: those of the loss, the distance from the base, and choices.
UNANSWERED = (*LOSS_METRICS, KL, *CHOICES)


@dataclass(frozen=True)
class Measures:
    """What is measured on every set.

    Attributes:
        metrics: names out of UNANSWERED and `tasks`, and WIN_RATE; `loss` is always measured, and
            `kl` on retention and there alone.
        primary: the metric the verdict rests on, {set: name}; `loss` for others.
        margin: how much of the primary metric retention may lose, in its own unit.
        max_examples: measured per set; None: all.
        max_generated: answered per set, out of the measured ones.
        scoring: what scorers need.
        sampling: what sampled answers are measured by; None: none are.
        judge: who decides WIN_RATE.
        seed: of the samples and of the resampling.
    """

    metrics: tuple[str, ...] = ("loss", "perplexity")
    primary: Mapping[str, str] | str = "loss"
    margin: float = 0.05
    max_examples: int | None = None
    max_generated: int = 100
    scoring: tasks.ScoringOptions = field(default_factory=tasks.ScoringOptions)
    sampling: Sampling | None = None
    judge: PairJudge | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        possible = [*UNANSWERED, WIN_RATE, *tasks.names()]
        primary = [self.primary] if isinstance(self.primary, str) else list(self.primary.values())
        named = [name for name in primary if name not in self.sampled]
        for name in [*self.metrics, *named]:
            if name not in possible:
                raise RecipeError(
                    f"evaluate.metrics or evaluate.primary names {name!r}; possible: "
                    f"{', '.join([*possible, *self.sampled])}. Choose one of them."
                )
        for name in named:
            if name not in {"loss", KL, *self.metrics}:
                raise RecipeError(
                    f"evaluate.primary {name!r} is not among evaluate.metrics "
                    f"{list(self.metrics)}; add it there."
                )
        if WIN_RATE in self.metrics and self.judge is None:
            raise RecipeError(f"evaluate.metrics names {WIN_RATE}, which needs evaluate.judge.")

    @staticmethod
    def from_section(section: EvaluateSection, *, seed: int) -> Measures:
        """What a recipe asks for.

        Raises:
            RecipeError: a metric that does not exist, or a JSON schema that cannot be used.
        """
        schema = None
        if section.json_schema is not None:
            # Not at the top: jsonschema takes a tenth of a second that few recipes need.
            from lorakit.tasks.json_schema import load_schema

            schema = load_schema(section.json_schema)
        return Measures(
            metrics=tuple(section.metrics),
            primary=section.primary,
            margin=section.margin,
            max_examples=section.max_examples,
            max_generated=section.max_generated,
            scoring=tasks.ScoringOptions(section.regex, schema, seed),
            sampling=None
            if section.sampling is None
            else Sampling.from_section(section.sampling, section.metrics),
            judge=None if section.judge is None else PairJudge.from_section(section.judge),
            seed=seed,
        )

    @property
    def answered(self) -> list[str]:
        """The metrics that need answers."""
        return [*(name for name in self.metrics if name not in UNANSWERED), *self.sampled]

    @property
    def scorers(self) -> list[str]:
        """The metrics that `tasks` computes of greedy answers."""
        return [name for name in self.metrics if name not in (*UNANSWERED, WIN_RATE)]

    @property
    def sampled(self) -> tuple[str, ...]:
        """The metrics of sampled answers."""
        return () if self.sampling is None else self.sampling.metrics

    @property
    def choices(self) -> list[str]:
        """The metrics of options and their likelihoods."""
        return [name for name in self.metrics if name in CHOICES]

    def primary_of(self, set_name: str) -> str:
        """The metric that a set's verdict rests on; a variant's is that of its source."""
        return primary_of(self.primary, set_name)


def primary_of(primary: Mapping[str, str] | str, set_name: str) -> str:
    """The metric that a set's verdict rests on, by what `evaluate.primary` says."""
    if isinstance(primary, str):
        return primary
    source, _ = source_and_variant(set_name) or (set_name, "")
    return primary.get(source, "loss")
