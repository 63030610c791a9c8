"""Rows of new tokens: which an adapter trains, and how many it needs of a base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from lorakit.adapters.attached import Attached
from lorakit.adapters.modules import TrainedCopy
from lorakit.adapters.patterns import is_below, matches_list
from lorakit.adapters.token_rows import EmbeddingRows
from lorakit.base.vocabulary import grow_vocabulary, vocabulary_rows
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

TokenIndices = list[int] | dict[str, list[int]] | None


def train_new_rows(config: LoraConfig, model: PreTrainedModel, token_ids: list[int]) -> LoraConfig:
    """`config` with the rows of new tokens in `trainable_token_indices`.

    In the embedding, and in the output head where that is not tied to it; where a module trains in
    full (`modules_to_save`), its new rows do so with it.

    Args:
        config: of a recipe.
        model: the base, its vocabulary grown.
        token_ids: of the new tokens; empty: the config stays as it is.
    """
    if not token_ids:
        return config
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    embedding = names[id(inputs)]
    given = config.trainable_token_indices
    rows = {embedding: given} if isinstance(given, list) else dict(given or {})
    wanted = [embedding]
    if head is not None and head.weight is not inputs.weight:
        wanted.append(names[id(head)])
    in_full = [
        name for name in names.values() if name and matches_list(name, config.modules_to_save or [])
    ]
    for name in wanted:
        key = next((item for item in rows if matches_list(name, [item])), name)
        if not is_below(name, in_full):
            rows[key] = list(dict.fromkeys([*rows.get(key, []), *token_ids]))
    indices: TokenIndices = rows[embedding] if rows.keys() == {embedding} else rows or None
    return config.model_copy(update={"trainable_token_indices": indices})


def refuse_frozen_rows(adapter: Attached, model: PreTrainedModel, token_ids: list[int]) -> None:
    """Raise AdapterError when a loaded adapter does not train the rows of new tokens."""
    module = model.get_input_embeddings()
    trained = module.token_ids.tolist() if isinstance(module, EmbeddingRows) else []
    frozen = sorted(set(token_ids) - set(trained))
    if frozen and not isinstance(module, TrainedCopy):
        raise AdapterError(
            f"base.add_tokens adds the tokens {frozen[:5]}, whose rows the adapter of adapter.path "
            "does not train; possible: the tokens it was trained with. Fix base.add_tokens."
        )


@contextmanager
def grown_for(model: PreTrainedModel, config: LoraConfig, num_saved: int) -> Iterator[None]:
    """Grow the vocabulary of `model`, where it lacks rows that `config` trains.

    Only where every row that would be added is trained: what it starts from does not matter then.
    An exception inside takes it back.

    Args:
        model: the base.
        config: of a saved adapter.
        num_saved: rows that its tensors hold: a config alone makes no model grow.
    """
    undo = _grow(model, config.trainable_token_indices, num_saved)
    try:
        yield
    except BaseException:
        undo()
        raise


def _grow(model: PreTrainedModel, indices: TokenIndices, num_saved: int) -> Callable[[], object]:
    inputs = model.get_input_embeddings()
    num_rows = vocabulary_rows(model)
    if isinstance(indices, dict):
        name = next(name for name, module in model.named_modules() if module is inputs)
        indices = next((ids for item, ids in indices.items() if matches_list(name, [item])), None)
    missing = sorted(one for one in indices or [] if one >= num_rows)
    in_a_row = missing == list(range(num_rows, num_rows + len(missing)))
    # Others are no rows of new tokens; `find_rows` names them.
    if not missing or not in_a_row or len(missing) > num_saved:
        return lambda: None
    return grow_vocabulary(model, num_rows + len(missing))
