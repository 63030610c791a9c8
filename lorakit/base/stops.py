"""Tokens at which answers end."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel


def stop_ids_of(model: PreTrainedModel, trained: Sequence[int]) -> list[int]:
    """Those the base names, then those that trained turns end in, each once.

    Args:
        trained: `stop_ids` of the training set.
    """
    listed = model.generation_config.eos_token_id
    known = [listed] if isinstance(listed, int) else list(listed or ())
    return list(dict.fromkeys([*known, *trained]))
