"""What a training step does, counted: these numbers do not depend on the machine's mood."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached, attached
from lorakit.engine.recompute import Level, RecomputePolicy
from lorakit.kernels.cpu import threads
from lorakit.optimizers.optimizer import AdamW
from lorakit.train.batches import StepBatches
from lorakit.train.modes import training_mode
from lorakit.train.step import backward, take_step
from tests.train import runs

SEED = 7
MICRO_BATCH_TOKENS = 60  # of some 120 in a step: several micro-batches


@dataclass(frozen=True)
class Training:
    """A model in the mode it trains in, and its steps."""

    model: PreTrainedModel
    adapter: Attached
    optimizer: AdamW
    batches: StepBatches

    def passes(self, number: int = 0) -> None:
        """The forward and backward passes of a step, without its update; norms are made anew."""
        self.adapter.parameters_changed()
        backward(self.model, self.adapter, self.batches[number], seed=SEED)

    def step(self, number: int = 0) -> None:
        """One optimizer step of the loop."""
        take_step(
            self.model,
            self.adapter,
            self.optimizer,
            self.batches[number],
            learning_rate=1e-3,
            max_grad_norm=1.0,
            seed=SEED,
        )


@contextmanager
def training(
    folder: Path,
    *,
    packed: bool = True,
    tokens: int = MICRO_BATCH_TOKENS,
    level: Level = "none",
    **adapter: Any,
) -> Iterator[Training]:
    """A small run of the model in `folder`; the first step, which fills caches, is done."""
    model = runs.adapted_model(folder, **adapter)
    batches = StepBatches(
        runs.ragged_examples(16), batch_size=8, seed=SEED, token_budget=tokens, packed=packed
    )
    optimizer = AdamW(attached(model).parameters())
    with training_mode(model, attached(model), RecomputePolicy(level)):
        found = Training(model, attached(model), optimizer, batches)
        found.step()
        yield found
    optimizer.release()


aten = torch.ops.aten
PRODUCTS = frozenset({aten.mm, aten.addmm, aten.addmm_, aten.addmv, aten.mv, aten.baddbmm})


class Ops(TorchDispatchMode):
    """Counts ops that compute something, tensors that got memory of their own, and `flops` of
    matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.allocated: Counter[str] = Counter()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in PRODUCTS:
            left, right = [arg for arg in args if isinstance(arg, torch.Tensor)][-2:]
            self.flops += 2 * left.numel() * right.shape[-1]
        given = _storages((args, kwargs))
        new = _storages(result) - given
        if new:
            self.allocated[str(func)] += len(new)
        # Without a new tensor and without writing into an old one, it was a view.
        if (new or func._schema.is_mutable) and "empty" not in func._schema.name:
            self.launched[str(func)] += 1
        return result


def _storages(values: Any) -> set[int]:
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return {tensor.untyped_storage()._cdata for tensor in tensors}


@contextmanager
def ops(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ops]:
    """Counts inside; compiled ops of our own count as `compiled`."""
    run = threads.run

    def counted(*arguments: Any) -> None:
        found.launched["compiled"] += 1
        run(*arguments)

    with Ops() as found, monkeypatch.context() as patch:
        patch.setattr(threads, "run", counted)
        yield found


class Waits(TorchFunctionMode):
    """Where the host asks a tensor for its values: on a GPU it would wait there."""

    ASKING = frozenset(
        {
            "__bool__",
            "__complex__",
            "__contains__",
            "__float__",
            "__index__",
            "__int__",
            "allclose",
            "argwhere",
            "cpu",
            "equal",
            "is_nonzero",
            "item",
            "masked_select",
            "nonzero",
            "numpy",
            "tolist",
            "unique",
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # As a word: a `torch.device` is where the model computes, which here is the CPU.
        to_host = func is torch.Tensor.to and "cpu" in [a for a in args[1:] if isinstance(a, str)]
        if func.__name__ in self.ASKING or to_host:
            caller = traceback.extract_stack(limit=2)[0]
            self.found.append(f"{Path(caller.filename).name}, {caller.name}: {func.__name__}")
        return func(*args, **kwargs)


def live_tensors() -> int:
    """How many tensors there are."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def bytes_kept(model: PreTrainedModel, compute: Callable[[], object]) -> int:
    """What `compute()` leaves for its backward pass beside parameters and buffers, in bytes."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself, it would keep its own graph alive

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    del result
    return sum(kept.values())
