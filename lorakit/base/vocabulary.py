"""New tokens: the tokenizer learns them, and the embedding and the output head grow rows for them.

A new row is the mean of the rows that were there: a token that means nothing yet, of a usual size,
and the same on every machine (transformers' resize draws around that mean instead).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.errors import ModelError

Undo = Callable[[], None]


def add_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[str],
    *,
    special_tokens: Sequence[str] = (),
) -> list[int]:
    """Add tokens to a base, in place: to its tokenizer, and rows for them to its weights.

    Their rows are frozen like the rest of the base. To train them, and nothing else of the table,
    name them in `trainable_token_indices`; a recipe's `base.add_tokens` does that by itself.

    Args:
        model: a base without an adapter; on the meta device only shapes grow.
        tokenizer: of the model.
        tokens: texts that become one token each.
        special_tokens: control tokens, which a row's text can never spell.

    Returns:
        The ids, of `tokens` first.

    Raises:
        ModelError: a token that is empty, given twice or known already, or a model whose
            vocabulary cannot grow. Neither is changed then.
    """
    refuse_known(tokenizer, [*tokens, *special_tokens])
    first = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
    needed = first + len(tokens) + len(special_tokens)
    num_rows = vocabulary_rows(model)
    if needed > num_rows:
        grow_vocabulary(model, needed)
    ids = add_to_tokenizer(tokenizer, tokens, special_tokens)
    # Rows that the checkpoint has in reserve may hold anything, zeros too.
    _set_to_mean(model, [one for one in ids if one < num_rows], num_rows)
    return ids


def add_to_tokenizer(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], special_tokens: Sequence[str] = ()
) -> list[int]:
    """The tokenizer's part of `add_tokens`, with its errors."""
    refuse_known(tokenizer, [*tokens, *special_tokens])
    tokenizer.add_tokens(list(tokens))
    tokenizer.add_tokens(list(special_tokens), special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids([*tokens, *special_tokens])
    assert isinstance(ids, list)
    return ids


def refuse_known(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Raise ModelError for tokens that cannot be added."""
    vocabulary = tokenizer.get_vocab()
    faults = {
        token: "is empty" if not token.strip() else "is a token already"
        for token in tokens
        if not token.strip() or token in vocabulary
    }
    faults |= {token: "is given twice" for token in tokens if tokens.count(token) > 1}
    if faults:
        listed = "; ".join(f"{token!r} {fault}" for token, fault in list(faults.items())[:5])
        raise ModelError(
            f"{len(faults)} tokens cannot be added: {listed}. Possible: texts that this tokenizer "
            "splits. Remove them from base.add_tokens or base.add_special_tokens."
        )


@torch.no_grad()
def grow_vocabulary(model: PreTrainedModel, num_rows: int) -> Undo:
    """Give embedding and output head `num_rows` rows, the new ones the mean of the old.

    A tied head stays tied.

    Returns:
        What takes it back.

    Raises:
        ModelError: the model has other tables over the vocabulary, or a head of another kind.
    """
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    config = model.config.get_text_config()
    before = config.vocab_size
    _refuse_other_tables(model, inputs, head)
    table = _grown(inputs, num_rows)
    table.num_embeddings = num_rows  # type: ignore[assignment]
    model.set_input_embeddings(table)
    if head is not None:
        wider = _grown(head, num_rows)
        wider.out_features = num_rows  # type: ignore[assignment]
        if head.weight is inputs.weight:
            wider.weight = table.weight
        model.set_output_embeddings(wider)
    config.vocab_size = num_rows

    def undo() -> None:
        model.set_input_embeddings(inputs)
        if head is not None:
            model.set_output_embeddings(head)
        config.vocab_size = before

    return undo


@torch.no_grad()
def _set_to_mean(model: PreTrainedModel, token_ids: list[int], num_rows: int) -> None:
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None and token_ids:
            weight = module.get_parameter("weight")
            if not weight.is_meta:
                weight[token_ids] = _mean_row(weight[:num_rows])


def vocabulary_rows(model: PreTrainedModel) -> int:
    """V, the rows of the input embedding; it may have more than the tokenizer has tokens."""
    inputs = model.get_input_embeddings()
    return inputs.get_parameter("weight").shape[0]


def with_more_rows(tensor: torch.Tensor, num_rows: int) -> torch.Tensor:
    """`tensor` (V, ...) with rows added that are the mean of those it has, in its dtype."""
    missing = num_rows - tensor.shape[0]
    return torch.cat([tensor, _mean_row(tensor).expand(missing, *tensor.shape[1:])])


def _mean_row(tensor: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.mean(dim=0, dtype=wide).to(tensor.dtype)


def _grown(module: nn.Module, num_rows: int) -> nn.Module:
    """A copy of an embedding or head, every parameter of it with more rows."""
    grown = {
        id(parameter): nn.Parameter(
            with_more_rows(parameter.detach(), num_rows), requires_grad=parameter.requires_grad
        )
        for parameter in module.parameters()
    }
    memo: dict[int, Any] = dict(grown)
    return copy.deepcopy(module, memo)


def _refuse_other_tables(model: PreTrainedModel, inputs: nn.Module, head: nn.Module | None) -> None:
    assert isinstance(inputs.weight, torch.Tensor)
    others = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module is not inputs
        and module.num_embeddings == inputs.weight.shape[0]
    ]
    if others or not isinstance(inputs, nn.Embedding) or not isinstance(head, nn.Linear | None):
        what = f"further tables over it: {', '.join(others[:3])}" if others else "no plain tables"
        raise ModelError(
            f"the vocabulary of a {model.config.model_type!r} model cannot grow, it has {what}; "
            "possible: one embedding and one linear head. Use tokens that the tokenizer has."
        )
