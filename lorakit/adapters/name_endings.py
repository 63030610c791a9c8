"""Names of modules as PEFT's lists and patterns match them: by their endings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lorakit.adapters.ranks import matching_values
from lorakit.errors import AdapterError


def minimal_endings(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Few name endings that match all `names` and none of the `others`, as PEFT matches a list.

    Raises:
        AdapterError: an adapted name is the end of another module's name.
    """
    foreign = {ending for name in others for ending in endings(name)}
    chosen: set[str] = set()
    for name in names:
        if not any(ending in chosen for ending in endings(name)):
            ending = next((ending for ending in endings(name) if ending not in foreign), None)
            if ending is None:
                raise AdapterError(
                    f"the adapted module {name!r} ends the name of another that is not adapted; "
                    "PEFT's format cannot tell them apart. Adapt both or neither."
                )
            chosen.add(ending)
    return sorted(chosen)


def portable_pattern(
    wanted: Mapping[str, float], written: Mapping[str, float], default: float, field: str
) -> dict[str, float]:
    """A rank_pattern or alpha_pattern that gives every module its value in PEFT too.

    PEFT saves patterns sorted and takes the first match, so overlapping patterns may resolve
    otherwise after a load. Those are written out with full module names.

    Raises:
        AdapterError: not even full names tell the modules apart.
    """
    for pattern in (dict(sorted(written.items())), _full_names(wanted, default)):
        found = matching_values(wanted, pattern, field)
        if all(set(found.get(name, [default])) == {value} for name, value in wanted.items()):
            return pattern
    raise AdapterError(
        f"{field} {dict(written)!r} cannot be written so that PEFT reads the same: a module name "
        f"is the end of another. Use one value for both in adapter.{field}."
    )


def _full_names(wanted: Mapping[str, float], default: float) -> dict[str, float]:
    return {name: value for name, value in sorted(wanted.items()) if value != default}


def endings(name: str) -> list[str]:
    """Of `a.b.c`: c, b.c, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
