"""What every section of a recipe has in common, and the numbers they allow."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

# Far above any use, and low enough that sums of them stay in 64 bits.
LARGEST_COUNT = 10**9
PositiveInt = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range that every generator accepts
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values are checked when assigned."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_from_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts True as 1: `r: true` must not become rank 1.
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and _is_number(field.annotation):
            raise ValueError("should be a number, not true or false")
        return value


def _is_number(annotation: Any) -> bool:
    leaves = _leaves(annotation)
    return bool(leaves & {int, float}) and bool not in leaves


def _leaves(annotation: Any) -> set[Any]:
    parts = [part for part in get_args(annotation) if not isinstance(part, FieldInfo)]
    return set().union(*map(_leaves, parts)) if parts else {annotation}
