"""`evaluate`: what the run is proven on."""

from __future__ import annotations

from pydantic import Field

from lorakit.recipe.sections.data import SourceList
from lorakit.recipe.sections.judge import JudgeSection
from lorakit.recipe.sections.lm_eval import LmEvalSection
from lorakit.recipe.sections.sampling import SamplingSection
from lorakit.recipe.sections.section import NonNegativeFloat, PositiveInt, Section

EVALUATION_SETS = ("in_domain", "out_of_domain", "retention")


class EvaluateSection(Section):
    """What the run is proven on."""

    in_domain: SourceList | None = None
    out_of_domain: SourceList | None = None
    retention: SourceList | None = None
    variants: list[str] = Field(
        default_factory=list,
        description="in_domain once more with its prompts said otherwise: by file name in "
        "data/variants. Each costs what in_domain costs.",
    )
    metrics: list[str] = Field(
        default_factory=lambda: ["loss", "perplexity", "token_f1", "rouge_l"],
        description="loss, perplexity, and scorers of greedy answers by file name in tasks.",
    )
    primary: str | dict[str, str] = Field(
        "loss",
        description="The metric the verdict rests on, such as math or math/pass@1; or {set: "
        "metric}, loss where none is named.",
    )
    margin: NonNegativeFloat = Field(
        0.05, description="How much retention may lose, in the unit of its primary metric."
    )
    max_examples: PositiveInt | None = Field(
        None, description="Examples per set, drawn by the seed; null: all."
    )
    max_generated: PositiveInt = Field(
        100, description="Examples per set that are answered, drawn by the seed."
    )
    max_new_tokens: PositiveInt = Field(256, description="Tokens of an answer, at most.")
    max_batch: PositiveInt | None = Field(
        None,
        description="Answers that are generated at a time; fewer take less memory, and longer; "
        "null: as many as fit, 64 at most.",
    )
    sampling: SamplingSection | None = Field(
        None, description="Several sampled answers to each question: pass@k and majority@k."
    )
    regex: str | None = Field(None, description="What metric regex searches for in an answer.")
    json_schema: str | None = Field(
        None, description="File with the schema that metric json_schema holds answers to."
    )
    judge: JudgeSection | None = Field(
        None, description="The model that metric win_rate asks which of two answers is better."
    )
    lm_eval: LmEvalSection | None = Field(None, description="Tasks of lm-eval, base and tuned.")
