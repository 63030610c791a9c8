"""Whether the whole answer is JSON that the schema of `evaluate.json_schema` accepts.

Strict: text around the JSON, NaN and doubled keys are faults, as they are to a program that reads
it. The reference is not looked at. Nothing is fetched: a schema stands in one file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import numpy as np
import referencing
from referencing.exceptions import Unresolvable

from lorakit.errors import RecipeError
from lorakit.tasks import ScoringOptions

NAME = "json_schema"
HIGHER_IS_BETTER = True
SUMMARY = "share of answers that are JSON as evaluate.json_schema demands"


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1.

    Raises:
        RecipeError: no schema is given, or it names a part of itself that is not there.
    """
    schema = options.json_schema
    if schema is None:
        raise RecipeError(
            "metric json_schema has no schema to hold answers to; set evaluate.json_schema to a "
            "file ({} accepts whatever is JSON)."
        )
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    validator = kind(schema, registry=referencing.Registry())
    try:
        return np.array([_accepted(validator, answer) for answer in answers], np.float64)
    except Unresolvable as error:
        raise RecipeError(
            f"evaluate.json_schema refers to {error.ref!r}, which is not in the file. Define it "
            "there."
        ) from error


def _accepted(validator: Any, answer: str) -> bool:
    try:
        value = json.loads(answer, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        return bool(validator.is_valid(value))
    except (ValueError, RecursionError):  # no JSON, or nested deeper than any program reads
        return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice")
    return values


def load_schema(path: str | Path) -> dict[str, Any] | bool:
    """Read and check a schema.

    Raises:
        RecipeError: the file cannot be read, is no JSON schema, or refers to another document.
    """
    where = f"evaluate.json_schema {str(path)!r}"
    try:
        schema = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where} cannot be read: {error}. Name a file of JSON.") from error
    except jsonschema.SchemaError as error:
        raise RecipeError(
            f"{where} is no JSON schema: {error.message} at {error.json_path}. Fix it there."
        ) from error
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise RecipeError(
                f"{where} refers to another document, {reference!r}; nothing is fetched. Copy what "
                "it means under $defs and refer to it as #/$defs/NAME."
            )
    return schema


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)
