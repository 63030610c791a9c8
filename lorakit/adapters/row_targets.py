"""Which rows of which embeddings `trainable_token_indices` names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.patterns import is_below, matches_list
from lorakit.adapters.word_embeddings import is_embedding, why_unfit
from lorakit.base.frozen_linear import is_linear
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig


@dataclass(frozen=True)
class RowsTarget:
    """Rows of an embedding or of the output head that train.

    Attributes:
        module: the embedding or head.
        token_ids: of the rows, in the order in which they are saved.
        tied_to: the embedding whose rows this head shares; None: its own.
    """

    module: nn.Module
    token_ids: list[int]
    tied_to: str | None = None


def find_rows(
    model: PreTrainedModel, config: LoraConfig, trained: Collection[str]
) -> dict[str, RowsTarget]:
    """The rows that `config` trains, by module name, embeddings first.

    A head that is tied to an embedding with trained rows follows it, unless the config names other
    rows for it (as in PEFT); a head alone gets rows of its own and is tied no longer.

    Raises:
        AdapterError: no such module, one that has no rows, an id out of range or given twice, or
            a module that is trained in full.
    """
    given = config.trainable_token_indices
    if given is None:
        return {}
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if isinstance(given, list):
        given = {names[id(inputs)]: given}
    rows: dict[str, RowsTarget] = {}
    for item, token_ids in given.items():
        for name in _modules(model, item):
            rows[name] = RowsTarget(_checked(model, name, token_ids, trained), token_ids)
    embedding = names[id(inputs)]
    if head is not None and embedding in rows and head.weight is inputs.weight:
        name, token_ids = names[id(head)], rows[embedding].token_ids
        if name not in rows or rows[name].token_ids == token_ids:
            module = _checked(model, name, token_ids, trained)
            rows[name] = RowsTarget(module, token_ids, tied_to=embedding)
        elif config.ensure_weight_tying:
            raise AdapterError(
                f"ensure_weight_tying, but trainable_token_indices name other rows for {name} than "
                f"for {embedding}; possible: the same for both. Fix one of the two."
            )
    return dict(sorted(rows.items(), key=lambda item: not is_embedding(item[1].module)))


def _modules(model: PreTrainedModel, item: str) -> list[str]:
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    meant = [name for name in names if matches_list(name, [item])]
    by_peft = [name for name in names if name.endswith(item) and name not in meant]
    if not meant or by_peft:
        found = f"PEFT would also take {by_peft[:3]}" if by_peft else "there is no such module"
        embeddings = [n for n, module in model.named_modules() if is_embedding(module)]
        raise AdapterError(
            f"trainable_token_indices name {item!r}, but {found}; embeddings here are "
            f"{', '.join(embeddings)}. Write the full module name."
        )
    return meant


def _checked(
    model: PreTrainedModel, name: str, token_ids: list[int], trained: Collection[str]
) -> nn.Module:
    module = model.get_submodule(name)
    if is_below(name, trained):
        raise AdapterError(
            f"{name!r} is named by modules_to_save and by trainable_token_indices; possible is "
            "one of the two. Remove it from one of them."
        )
    if module is model.get_output_embeddings():
        unfit = None if is_linear(module) else f"a {type(module).__name__}, no plain linear layer"
    elif is_embedding(module):
        unfit = why_unfit(module)
    else:
        unfit = f"a {type(module).__name__}, neither an embedding nor the output head"
    if unfit is not None:
        raise AdapterError(
            f"trainable_token_indices name {name!r}, {unfit}; possible are plain embeddings and "
            "the output head. Fix adapter.trainable_token_indices."
        )
    _check_ids(name, token_ids, num_rows(module))
    return module


def num_rows(module: nn.Module) -> int:
    """V of an embedding or head."""
    assert isinstance(module.weight, nn.Parameter)
    return module.weight.shape[0]


def _check_ids(name: str, token_ids: list[int], vocab_size: int) -> None:
    if not token_ids:
        raise AdapterError(
            f"trainable_token_indices name no row of {name}; possible: token ids below "
            f"{vocab_size}. Add some, or leave it out."
        )
    outside = [one for one in token_ids if not 0 <= one < vocab_size]
    if outside:
        raise AdapterError(
            f"trainable_token_indices {outside[:5]} are no rows of {name}, which has {vocab_size}; "
            "for new tokens, add them first with lorakit.add_tokens(model, tokenizer, [...]) or "
            "base.add_tokens."
        )
    if len(set(token_ids)) < len(token_ids):
        twice, _ = Counter(token_ids).most_common(1)[0]
        raise AdapterError(
            f"trainable_token_indices give {twice} twice for {name}. Give each id once."
        )
