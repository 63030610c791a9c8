"""What every value has in common that a page reads from a file or a verb."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A value of a file; keys that the report does not use are let pass."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )
