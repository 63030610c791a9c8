"""What the child of `_processes.schema_process` does; nobody imports it.

`lorakit/child/serve.py` runs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import referencing
from referencing.exceptions import Unresolvable


def start() -> Callable[[Any], bool | str | None]:
    """Requests are pairs of a schema and a value, as JSON texts.

    Answered by whether the one accepts the other, by what the schema refers to and has not, or by
    null where memory ran out.
    """
    kept: dict[str, Any] = {}  # the validator of the newest schema

    def accepts(request: list[str]) -> bool | str | None:
        schema, value = request
        if schema not in kept:
            kept.clear()
            kept[schema] = _validator(json.loads(schema))
        try:
            return bool(kept[schema].is_valid(json.loads(value)))
        except Unresolvable as error:
            return str(error.ref)
        # Nested deeper than any program reads, or a number beyond any that divides.
        except (RecursionError, OverflowError):
            return False
        except MemoryError:
            return None

    return accepts


def _validator(schema: Any) -> Any:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, registry=referencing.Registry())
