"""`data`: the sets of rows, and which part of each row is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from lorakit.recipe.sections.section import PositiveInt, Section


class DataSource(Section):
    """One set of rows."""

    path: str = Field(
        description="A file (jsonl, json, csv, parquet), a folder of them, a hub id, or "
        "`builtin:train` and the like."
    )
    split: str | None = Field(None, description="Split of a hub data set.")
    name: str | None = Field(None, description="Configuration of a hub data set.")
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0,
        description="How often a row is seen per epoch; 0.5: another seeded half each epoch.",
    )
    format: str | None = Field(
        None, description="Row format of this set; null: that of the data section."
    )
    columns: dict[str, str] | None = Field(
        None, description="{name the format expects: column in the file}"
    )
    system: str | None = Field(None, description="System message for rows without one.")


def _shape(value: Any) -> str:
    """Which alternative of a data set's value is meant: errors then speak of that one only."""
    if isinstance(value, list):
        return "list"
    if isinstance(value, dict | DataSource):
        return "set"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "fraction"
    return "path"


# A path or hub id, a set with its own options, or a list of both.
OneSource = Annotated[
    Annotated[str, Tag("path")] | Annotated[DataSource, Tag("set")], Discriminator(_shape)
]
SourceList = Annotated[
    Annotated[str, Tag("path")]
    | Annotated[DataSource, Tag("set")]
    | Annotated[list[OneSource], Field(min_length=1), Tag("list")],
    Discriminator(_shape),
]
SourceListOrFraction = Annotated[
    Annotated[str, Tag("path")]
    | Annotated[DataSource, Tag("set")]
    | Annotated[list[OneSource], Field(min_length=1), Tag("list")]
    | Annotated[float, Field(gt=0, lt=1), Tag("fraction")],
    Discriminator(_shape),
]


class HeldOutTopics(Section):
    """Whole values of a column that are kept out of training and validation."""

    column: str = Field(description="Column of the training rows that says what they are about.")
    values: Annotated[list[str | int], Field(min_length=1)] | None = Field(
        None, description="Which of its values; null: drawn by the seed up to `fraction`."
    )
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Share of the training rows that the drawn values have, at least."
    )


class DataSection(Section):
    """What is trained on, and which part of each row."""

    train: SourceList = Field(
        description="A path, a hub id, or a list of them (or of {path, weight, ...})."
    )
    validation: SourceListOrFraction | None = Field(
        None,
        description="Sets like `train`, or a fraction of train held out (by `group` if named).",
    )
    group: str | None = Field(
        None, description="Column whose equal values never end up on both sides of a split."
    )
    hold_out_topics: HeldOutTopics | None = Field(
        None, description="Topics that are never trained on; they become evaluate.out_of_domain."
    )
    format: str = Field("auto", description="Row format by its file name in data/formats, or auto.")
    columns: dict[str, str] = Field(
        default_factory=dict, description="{name the format expects: column in the file}"
    )
    system: str | None = Field(None, description="System message for rows without one.")
    max_length: PositiveInt | None = Field(
        None, description="Tokens per example; null: the model's context."
    )
    too_long: Literal["drop", "error"] = Field(
        "drop", description="What happens to rows over max_length."
    )
    max_dropped: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Stop when a larger share of the rows than this would be dropped."
    )
    packing: bool = Field(
        True, description="Several examples per row, each attending only to itself."
    )
    trained: Literal["assistant", "completion", "all"] = Field(
        "assistant", description="Every assistant turn, the last one only, or every token."
    )
    chat_template: str | None = Field(
        None, description="A .jinja file to use instead of the tokenizer's template."
    )
