"""What the inputs of a model's layers span, measured over batches.

N rows (tokens), I in_features, K directions kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.base.head import backbone
from lorakit.errors import AdapterError
from lorakit.progress import bar

UNTRAINED = -100  # the label of a token that does not count


class InputSpan:
    """The K leading principal directions of rows seen so far (incremental PCA, arXiv 0709.3227
    and scikit-learn's: the rows of earlier batches stand as `S V^T`).

    Attributes:
        directions: float32 (K, I), orthonormal rows, the most explained variance first.
        singular_values: float32 (K,).
        last_cosines: float32 (K,), |cosine| between each direction and itself a batch before; zeros
            at first.
        num_seen: rows.
    """

    def __init__(self, num_directions: int) -> None:
        self.directions = torch.empty(0, 0)
        self.singular_values = torch.empty(0)
        self.last_cosines = torch.empty(0)
        self.num_seen = 0
        self._num_directions = num_directions
        self._mean = torch.empty(0)
        self._total = torch.zeros(())

    @property
    def explained_ratios(self) -> torch.Tensor:
        """(K,), the part of all variance that each direction explains."""
        return self.singular_values.square() / self._total.clamp_min(1e-30)

    def add(self, x_NI: torch.Tensor) -> None:
        """Take more rows into account; any floating dtype."""
        x_NI = x_NI.float()
        count, seen = len(x_NI), self.num_seen
        mean = x_NI.mean(dim=0)
        rows = [x_NI - mean]
        if seen:
            # The two means differ: one row that stands for their distance.
            between = (self._mean - mean) * (seen * count / (seen + count)) ** 0.5
            rows += [self.singular_values[:, None] * self.directions, between[None]]
            self._total = self._total + between.square().sum()
            mean = self._mean + (mean - self._mean) * (count / (seen + count))
        self._total = self._total + rows[0].square().sum()
        _, S, Vh = torch.linalg.svd(torch.cat(rows), full_matrices=False)
        before, directions = self.directions, Vh[: self._num_directions]
        self.last_cosines = torch.zeros(len(directions), device=directions.device)
        if seen:
            same = min(len(before), len(directions))
            self.last_cosines[:same] = (before[:same] * directions[:same]).sum(dim=1).abs()
        self.directions, self.singular_values = directions, S[: self._num_directions]
        self._mean, self.num_seen = mean, seen + count


@torch.no_grad()
def input_spans(
    model: PreTrainedModel,
    num_directions: Mapping[str, int],
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    use_label_mask: bool,
    has_converged: Callable[[dict[str, InputSpan]], bool],
) -> dict[str, InputSpan]:
    """Measure the inputs of layers, until `has_converged` or the batches end.

    Layers that are called with the very same tensor one after the other, as query, key and value
    are, share one measurement.

    Args:
        model: without an adapter; in evaluation mode meanwhile.
        num_directions: {module name: how many directions}.
        batches: what `model(**batch)` takes, at least `input_ids`. Where a layer's rows are the
            tokens, those of `attention_mask` 0 do not count, nor those of label -100.
        use_label_mask: whether labels are looked at.

    Raises:
        AdapterError: a batch without input_ids, no batch, or fewer tokens than directions.
    """
    spans: dict[str, InputSpan] = {}
    # Logits of all tokens are the largest tensor of a pass: only made where the head is measured.
    head = model.get_output_embeddings()
    measures_head = any(model.get_submodule(name) is head for name in num_directions)
    forward = model if measures_head else backbone(model)
    with _evaluating(model), _Recorder(model, num_directions) as recorder, bar("eva") as progress:
        for batch in batches:
            if "input_ids" not in batch:
                raise AdapterError(
                    f"a calibration batch has {sorted(batch)}, no input_ids; possible: dicts that "
                    "model(**batch) takes. Fix calibration."
                )
            recorder.counted = _counted_tokens(batch, use_label_mask)
            inputs = {k: v.to(model.device) for k, v in batch.items() if k != "labels"}
            forward(**inputs, use_cache=False)
            spans = recorder.spans()
            progress.advance()
            if has_converged(spans):
                break
    _check_seen(spans, num_directions)
    return spans


class _Recorder:
    """Hooks that add each layer's inputs to its span; taken off again at the end."""

    def __init__(self, model: nn.Module, num_directions: Mapping[str, int]) -> None:
        self.counted: torch.Tensor | None = None
        self._model = model
        self._most = max(num_directions.values())
        self._names = list(num_directions)
        self._own: dict[str, InputSpan] = {}
        self._last: tuple[torch.Tensor, InputSpan] | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> _Recorder:
        for name in self._names:
            hook = self._hook(name)
            self._handles.append(self._model.get_submodule(name).register_forward_pre_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._last = None

    def spans(self) -> dict[str, InputSpan]:
        """{module name: its span}, after a forward pass."""
        self._last = None
        return {name: self._own[name] for name in self._names if name in self._own}

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def record(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            x = args[0]
            if self._last is not None and self._last[0] is x:
                self._own.setdefault(name, self._last[1])
                if self._own[name] is self._last[1]:
                    return
            span = self._own.setdefault(name, InputSpan(self._most))
            rows = x.reshape(-1, x.shape[-1])
            if self.counted is not None and len(self.counted) == len(rows):
                rows = rows[self.counted.to(rows.device)]
            if len(rows):
                span.add(rows)
            self._last = (x, span)

        return record


def _counted_tokens(batch: Mapping[str, torch.Tensor], use_label_mask: bool) -> torch.Tensor:
    """bool (tokens of the batch,)"""
    counted = torch.ones_like(batch["input_ids"], dtype=torch.bool)
    if "attention_mask" in batch:
        counted &= batch["attention_mask"].bool()
    if use_label_mask and "labels" in batch:
        counted &= batch["labels"] != UNTRAINED
    return counted.flatten()


def _check_seen(spans: Mapping[str, InputSpan], num_directions: Mapping[str, int]) -> None:
    for name, wanted in num_directions.items():
        seen = spans[name].num_seen if name in spans else 0
        if seen <= wanted:
            raise AdapterError(
                f"{name!r} saw {seen} tokens of the calibration batches; {wanted} directions need "
                "more than that. Give more batches, lower adapter.r or adapter.eva_config.rho, or "
                "leave the layer out with adapter.exclude_modules."
            )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
