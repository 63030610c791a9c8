"""What rewards are called, and those that are no scorers of texts (the files of tasks/): they see
tokens, and so serve no evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOFT_OVERLONG = "soft_overlong_punishment"
OF_TOKENS = (SOFT_OVERLONG,)
# {scorer: (its option, what it may be)}; no other scorer has one.
REWARD_OPTIONS = {
    "regex": ("regex", "a pattern such as '(?s)<answer>.+</answer>'"),
    "json_schema": ("json_schema", "a file with a JSON schema"),
}
# Options of SOFT_OVERLONG, with the names of TRL's get_soft_overlong_punishment.
CACHE, LONGEST = "soft_punish_cache", "max_completion_len"


def is_function(scorer: str) -> bool:
    """Whether a reward is a function of the user's own, not a scorer."""
    return ":" in scorer


def function_name(scorer: str) -> str:
    """What a reward is called in metrics: the scorer, or the function without its module."""
    return scorer.rpartition(":")[2]


def overlong_faults(options: Mapping[str, Any], max_completion_length: int) -> dict[str, str]:
    """{option of SOFT_OVERLONG: why it cannot work}.

    Args:
        max_completion_length: of the rollouts, in tokens: the default of `max_completion_len`.
    """
    faults = {
        name: f"is no option of {SOFT_OVERLONG}; possible: {CACHE}, {LONGEST}"
        for name in options
        if name not in (CACHE, LONGEST)
    }
    if CACHE not in options:
        faults[CACHE] = "is missing; give the tokens over which the punishment grows from 0 to 1"
    for name, least in ((CACHE, 0), (LONGEST, 1)):
        value = options.get(name, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            faults[name] = f"is {value!r}; possible: whole numbers of tokens, {least} or more"
    if faults:
        return faults
    cache, longest = options[CACHE], options.get(LONGEST, max_completion_length)
    if cache > longest:
        faults[CACHE] = f"{cache} is more than the {longest} tokens that a completion may have"
    elif longest - cache >= max_completion_length:
        faults[CACHE] = (
            f"{cache} cannot take effect because nothing up to {longest - cache} tokens is "
            f"punished, and completions have max_completion_length {max_completion_length} at "
            "most; raise it, or remove the reward"
        )
    return faults
