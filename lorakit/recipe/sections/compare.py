"""`compare`: what else could be done in place of training, and what `lorakit compare` measures."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from lorakit.recipe.sections.section import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Section,
)

FIELDS = ("{documents}", "{question}")


class CompareSection(Section):
    """Five ways to answer: prompt, few-shot, retrieval, tuned, tuned with retrieval."""

    documents: str | None = Field(
        None, description="A file or folder of documents to retrieve from; null: no retrieval."
    )
    text_column: str = Field("text", description="Column of .jsonl and .csv documents to search.")
    chunk_characters: PositiveInt = Field(800, description="The most characters of a chunk.")
    overlap_characters: NonNegativeInt = Field(
        100, description="Characters, at most, that a chunk repeats from the one before."
    )
    top_k: PositiveInt = Field(3, description="Chunks that are put into a prompt, at most.")
    prompt: str | None = Field(
        None,
        description="How the question reads with documents: text with {documents} and {question}; "
        "null: one that asks for citations.",
    )
    few_shot: Annotated[int, Field(ge=1, le=100)] = Field(
        4, description="Solved examples from the training set that are put into a prompt, at most."
    )
    max_examples: PositiveInt = Field(
        100, description="Questions that every way answers, drawn by the seed."
    )
    timed: Annotated[int, Field(ge=2, le=1000)] = Field(
        10, description="Questions that are asked one by one, to measure latency."
    )
    margin: NonNegativeFloat = Field(
        0.05,
        description="How much worse a cheaper way may be, in the unit of the primary metric.",
    )
    calls: PositiveInt = Field(
        100_000, description="Calls that the cost of training or indexing is spread over."
    )
    api: str | None = Field(
        None,
        description="A hosted model in the price table: calls then cost its tokens, not this "
        "machine's time.",
    )
    prices: str | None = Field(
        None, description="A price table of your own; null: that of `lorakit plan`."
    )

    @field_validator("prompt")
    @classmethod
    def _has_both_fields(cls, prompt: str | None) -> str | None:
        wrong = [name for name in FIELDS if prompt is not None and prompt.count(name) != 1]
        if wrong:
            raise ValueError(f"should have {' and '.join(wrong)} in it, once")
        return prompt
