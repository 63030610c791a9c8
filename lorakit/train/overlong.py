"""A punishment of completions that come close to the longest that one may be (DAPO, arXiv
2503.14476, equation 13), as TRL's `get_soft_overlong_punishment` has it.

    0                                            up to L_max - L_cache tokens
    ((L_max - L_cache) - length) / L_cache       from there to L_max: from 0 down to -1
    -1                                           beyond
"""

from __future__ import annotations

import numpy as np


def soft_overlong_punishment(
    lengths: np.ndarray, *, max_completion_len: int, soft_punish_cache: int
) -> np.ndarray:
    """What each completion is punished with.

    Args:
        lengths: int64 (E,), tokens of each, its end token included.
        max_completion_len: L_max, tokens.
        soft_punish_cache: L_cache, tokens, 0 up to `max_completion_len`; 0: -1 beyond L_max.

    Returns:
        float64 (E,), from -1 to 0.
    """
    over = np.asarray(lengths, np.int64) - (max_completion_len - soft_punish_cache)
    return np.clip(-over / max(soft_punish_cache, 1), -1.0, 0.0)
