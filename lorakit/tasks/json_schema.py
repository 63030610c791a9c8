"""Whether the whole answer is JSON that the schema of `evaluate.json_schema` accepts.

Strict: text around the JSON, NaN and doubled keys are faults, as they are to a program that reads
it. The reference is not looked at. Nothing is fetched: a schema stands in one file. Answers are
held to it in a child process that is killed when it takes too long.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import referencing
import referencing.jsonschema
from referencing.exceptions import Unresolvable

from lorakit.errors import InputError, RecipeError, RunError
from lorakit.files import strict_json
from lorakit.tasks import ScoringOptions, of_different
from lorakit.tasks._processes import schema_process

NAME = "json_schema"
HIGHER_IS_BETTER = True
IS_OF_A_SET = False
IS_RIGHT_OR_WRONG = True
HAS_FINAL_ANSWER = False
SUMMARY = "share of answers that are JSON as evaluate.json_schema demands"

log = logging.getLogger(__name__)


def check(options: ScoringOptions) -> None:
    """See `lorakit.tasks.Scorer`: a schema is needed, and the process that holds answers to it."""
    _check_given(options)
    try:
        schema_process().ask("true", "null")
    except RunError as error:
        raise InputError(f"metric json_schema: {error}") from error


def _check_given(options: ScoringOptions) -> None:
    if options.json_schema is None:
        raise RecipeError(
            "metric json_schema has no schema to hold answers to; set evaluate.json_schema to a "
            "file ({} accepts whatever is JSON)."
        )


def scores(
    answers: Sequence[str], references: Sequence[str], options: ScoringOptions
) -> np.ndarray:
    """See `lorakit.tasks.Scorer`; each 0 or 1. What cannot be held to the schema in time is 0 and
    told.

    Raises:
        RecipeError: no schema is given, or it names a part of itself that is not there.
    """
    _check_given(options)
    schema = json.dumps(options.json_schema)
    accepted = of_different(answers, lambda answer: _accepted(schema, answer), options)
    stopped = sum(accepted[answer] is None for answer in answers)
    if stopped:
        log.warning(
            "%s: %d of %d answers took too much time or memory and count as not accepted; write "
            "patterns without nested repetitions",
            options.titled(NAME),
            stopped,
            len(answers),
        )
    return np.array([accepted[answer] is True for answer in answers], np.float64)


def _accepted(schema: str, answer: str) -> bool | None:
    """None: it broke a limit."""
    try:
        strict_json(answer)
    except (ValueError, RecursionError):  # no JSON, or nested deeper than any program reads
        return False
    found: bool | str | None = schema_process().ask(schema, answer)
    if isinstance(found, str):
        raise RecipeError(
            f"evaluate.json_schema refers to {found!r}, which is not in the file. Define it there."
        )
    return found


def load_schema(path: str | Path) -> dict[str, Any] | bool:
    """Read and check a schema.

    Raises:
        RecipeError: the file cannot be read, is no JSON schema, or refers to another document, to a
            part of itself that is not there, or from a part to that part itself.
    """
    where = f"evaluate.json_schema {str(path)!r}"
    try:
        schema = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where} cannot be read: {error}. Name a file of JSON.") from error
    named = schema.get("$schema", "") if isinstance(schema, dict) else ""
    if not isinstance(schema, dict | bool) or not isinstance(named, str):
        raise RecipeError(
            f"{where} is no JSON schema: it has to be an object (its $schema a text), true or "
            "false. Fix it there."
        )
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise RecipeError(
            f"{where} is no JSON schema: {error.message} at {error.json_path}. Fix it there."
        ) from error
    _check_references(schema, kind.META_SCHEMA["$schema"], where)
    try:
        kind(schema, registry=referencing.Registry()).is_valid(None)
    except Unresolvable as error:  # jsonschema 4.26 overlooks the $id of a part under `not`
        raise RecipeError(
            f"{where} refers to {error.ref!r}, which jsonschema does not find. Remove $id."
        ) from error
    except RecursionError as error:
        raise RecipeError(
            f"{where} refers from a part to that part itself, so nothing can be held to it. Break "
            "the circle."
        ) from error
    return schema


def _check_references(schema: dict[str, Any] | bool, dialect: str, where: str) -> None:
    """Hours before the first answer is held to them, see that all references lead somewhere."""
    root = referencing.jsonschema.specification_with(dialect).create_resource(schema)
    registry = referencing.Registry().with_resource("", root)
    for reference, resolver in _references(schema, registry.resolver_with_root(root)):
        if not reference.startswith("#"):
            raise RecipeError(
                f"{where} refers to another document, {reference!r}; nothing is fetched. Copy what "
                "it means under $defs and refer to it as #/$defs/NAME."
            )
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise RecipeError(
                f"{where} refers to {reference!r}, which is not in the file. Define it there."
            ) from error


def _references(part: Any, resolver: Any) -> Iterator[tuple[str, Any]]:
    """Every reference, and what resolves it: a part with an $id of its own is a root to itself."""
    if isinstance(part, dict):
        if isinstance(part.get("$id"), str):
            inner = referencing.jsonschema.DRAFT202012.create_resource(part)
            resolver = resolver.in_subresource(inner)
        for key, value in part.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value, resolver
            yield from _references(value, resolver)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value, resolver)
