"""`trainable_token_indices`: single rows of an embedding, and of the output head, are trained.

EmbeddingRows   an embedding; the rows of some token ids are replaced by trained ones
HeadRows        an output head; the logits of these tokens come from trained rows. Where the head is
                tied to the embedding, these are the embedding's, and nothing is saved for it.

PEFT stores the rows under `token_adapter.trainable_tokens_delta` (despite its name they replace).
PEFT copies the whole table in every forward pass; here the frozen table is read as it is, and
gradients and optimizer state exist for these rows only.

V vocabulary, D hidden size, N trained rows.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from lorakit.adapters.contract import AdaptedModule, ParameterMerge, Switch
from lorakit.adapters.plain import plain_linear
from lorakit.adapters.word_embeddings import scale_of
from lorakit.base.frozen_linear import FrozenLinear

PEFT_NAME = "token_adapter.trainable_tokens_delta"


class EmbeddingRows(AdaptedModule):
    """A frozen embedding with trained rows; stands where the embedding stood.

    Parameter names below the module's own name are `rows` (N, D) (float32, trained) and
    `base_layer.*`.

    Args:
        name: module name in the model.
        base_layer: the embedding; one that `word_embeddings.why_unfit` lets through.
        token_ids: of the rows, each below V, none twice.
        tied: names of the heads whose rows are these.
        device: of the trained rows.
        switch: shared by all adapted modules of the model.
    """

    token_ids: torch.Tensor
    places: torch.Tensor

    def __init__(
        self,
        name: str,
        base_layer: nn.Embedding,
        token_ids: list[int],
        *,
        tied: tuple[str, ...],
        device: torch.device,
        switch: Switch,
    ) -> None:
        super().__init__(name, switch)
        self.base_layer = base_layer.requires_grad_(False)
        self.tied = tied
        self.num_embeddings, self.embedding_dim = base_layer.weight.shape
        self.padding_idx = base_layer.padding_idx
        self.rows = _start_rows(base_layer.weight, token_ids, device)
        self.register_buffer("token_ids", _index(token_ids, device), persistent=False)
        places = torch.full((self.num_embeddings,), -1, dtype=torch.int32)
        places[torch.tensor(token_ids)] = torch.arange(len(token_ids), dtype=torch.int32)
        self.register_buffer("places", places.to(device), persistent=False)
        padded = self.padding_idx is not None and self.padding_idx in token_ids
        self._padding_place = token_ids.index(self.padding_idx) if padded else None  # type: ignore[arg-type]
        self.train(base_layer.training)

    @property
    def weight(self) -> torch.Tensor:
        """The table (V, D) in use."""
        weight = self.base_layer.weight
        return _replaced(weight, self.token_ids, self.rows) if self.switch.on else weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        frozen = self.base_layer(input_ids)
        if not self.switch.on:
            return frozen
        place = self.places[input_ids]
        # As in PEFT, a trained row of the padding token counts, but gets no gradient here.
        rows = nn.functional.embedding(place.clamp_min(0), self.rows, self._padding_place)
        rows = rows.to(frozen.dtype)
        scale = scale_of(self.base_layer)
        rows = rows if scale is None else rows * scale
        return torch.where((place >= 0).unsqueeze(-1), rows, frozen)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {"rows": self.rows}

    def kept_tensors(self) -> list[torch.Tensor]:
        return [self.token_ids, self.places]

    def peft_names(self) -> dict[str, str]:
        return {PEFT_NAME: "rows"}

    def plain_module(self) -> nn.Module:
        parameter = nn.Parameter(self.weight.detach().clone())
        return copy.deepcopy(self.base_layer, {id(self.base_layer.weight): parameter})

    def merges(self) -> dict[str, ParameterMerge]:
        return {"weight": ParameterMerge(lambda w: _replaced(w, self.token_ids, self.rows))}

    def extra_repr(self) -> str:
        return f"{len(self.token_ids)} of {self.num_embeddings} rows, {self.embedding_dim}"


class HeadRows(AdaptedModule):
    """A frozen output head with trained rows; stands where the head stood.

    Args:
        name: module name in the model.
        base_layer: the head.
        token_ids: of the rows, each below V, none twice.
        rows: those of the embedding that the head is tied to; None: rows of its own.
        device: of rows of its own.
        switch: shared by all adapted modules of the model.
    """

    token_ids: torch.Tensor

    def __init__(
        self,
        name: str,
        base_layer: FrozenLinear,
        token_ids: list[int],
        *,
        rows: nn.Parameter | None,
        device: torch.device,
        switch: Switch,
    ) -> None:
        super().__init__(name, switch)
        self.base_layer = base_layer
        self.follows = rows is not None
        self.rows = _start_rows(base_layer.weight, token_ids, device) if rows is None else rows
        self.register_buffer("token_ids", _index(token_ids, device), persistent=False)
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features

    @property
    def weight(self) -> torch.Tensor:
        """The weight (V, D) in use."""
        weight = self.base_layer.weight
        return _replaced(weight, self.token_ids, self.rows) if self.switch.on else weight

    @property
    def bias(self) -> nn.Parameter | None:
        """The frozen head's bias, which PEFT 0.21 forgets here."""
        return self.base_layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.base_layer(x)
        if not self.switch.on:
            return logits
        bias = self.base_layer.bias
        chosen = None if bias is None else bias[self.token_ids].to(x.dtype)
        own = nn.functional.linear(x, self.rows.to(x.dtype), chosen)
        return logits.index_copy(-1, self.token_ids, own)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {} if self.follows else {"rows": self.rows}

    def kept_tensors(self) -> list[torch.Tensor]:
        return [self.token_ids]

    def peft_names(self) -> dict[str, str]:
        return {} if self.follows else {PEFT_NAME: "rows"}

    def plain_module(self) -> nn.Module:
        return plain_linear(self.base_layer, self.weight)

    def merges(self) -> dict[str, ParameterMerge]:
        if self.follows:
            return {}
        return {"weight": ParameterMerge(lambda w: _replaced(w, self.token_ids, self.rows))}

    def extra_repr(self) -> str:
        return f"{len(self.token_ids)} of {self.out_features} rows, follows={self.follows}"


def _start_rows(weight: torch.Tensor, token_ids: list[int], device: torch.device) -> nn.Parameter:
    """The rows as they are, float32 (float64 of a float64 table)."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    if weight.is_meta:
        return nn.Parameter(torch.zeros(len(token_ids), weight.shape[1], dtype=wide, device=device))
    rows = weight.detach()[_index(token_ids, weight.device)]
    return nn.Parameter(rows.to(device, wide, copy=True))


def _index(token_ids: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(token_ids, dtype=torch.int64, device=device)


def _replaced(weight: torch.Tensor, token_ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return weight.index_copy(0, token_ids.to(weight.device), rows.to(weight))
