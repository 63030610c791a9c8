"""How much of each layer is made again in the backward pass, instead of being kept until then.

    none        what its modules keep
    selective   the wide inner activations of its MLP are made again, two products for most of the
                memory (where the MLP is a fast one)
    full        only its input is kept, and its forward pass repeated

With a budget the levels follow from the tokens of each micro-batch: a short one keeps everything, a
long one makes as much again as it must. All levels compute the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from lorakit.engine.activations import LayerBytes, decoder_layers, layer_bytes
from lorakit.engine.modules import FusedGatedMLP
from lorakit.errors import ModelError

Level = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class RecomputePolicy:
    """What decides the levels.

    Attributes:
        level: of all layers; "auto": by the budget.
        budget: bytes that a micro-batch may keep, for "auto".
    """

    level: Level | Literal["auto"] = "none"
    budget: int | None = None

    def levels(self, layers: Sequence[LayerBytes], num_tokens: int) -> list[Level]:
        """The level of each layer, for a micro-batch of so many tokens.

        Selective goes before full: per byte it costs less. The first layers give before the last
        ones: when their turn comes in the backward pass, the memory of the others is free again.
        """
        if self.level != "auto":
            return [self.level] * len(layers)
        chosen: list[Level] = ["none"] * len(layers)
        assert self.budget is not None
        excess = num_tokens * sum(layer.none for layer in layers) - self.budget
        steps: tuple[tuple[Level, Level], ...] = (("none", "selective"), ("selective", "full"))
        for before, after in steps:
            for place, layer in enumerate(layers):
                saved = getattr(layer, before) - getattr(layer, after)
                if excess > 0 and saved > 0:
                    chosen[place] = after
                    excess -= num_tokens * saved
        return chosen

    def describe(self) -> str:
        """For people: what of the layers is computed twice."""
        if self.level != "auto":
            return {
                "none": "no gradient checkpointing",
                "selective": "selective gradient checkpointing",
                "full": "full gradient checkpointing",
            }[self.level]
        assert self.budget is not None
        return f"gradient checkpointing beyond {self.budget / 2**30:.1f} GiB"


class Recompute:
    """Sets the levels of a model's layers, micro-batch by micro-batch."""

    def __init__(self, model: PreTrainedModel, policy: RecomputePolicy, itemsize: int) -> None:
        self._policy = policy
        self._layers = decoder_layers(model)
        self._bytes = layer_bytes(model, itemsize) if self._layers else []
        self._mlps = [_fast_mlps(layer) for layer in self._layers]
        self._of_tokens: dict[int, list[Level]] = {}

    @property
    def can_select(self) -> bool:
        """Whether some layer keeps less at the level "selective"."""
        return any(one.selective < one.none for one in self._bytes)

    def prepare(self, num_tokens: int) -> None:
        """Before the forward pass of a micro-batch of so many tokens, padding included."""
        if num_tokens not in self._of_tokens:
            self._of_tokens[num_tokens] = self._policy.levels(self._bytes, num_tokens)
        self.assign(self._of_tokens[num_tokens])

    def assign(self, levels: Sequence[Level]) -> None:
        """Give each layer its level."""
        for layer, mlps, level in zip(self._layers, self._mlps, levels, strict=True):
            layer.gradient_checkpointing = level == "full"
            for mlp in mlps:
                mlp.recompute = level == "selective"


def _fast_mlps(layer: nn.Module) -> list[FusedGatedMLP]:
    return [module for module in layer.modules() if isinstance(module, FusedGatedMLP)]


def can_recompute(model: PreTrainedModel) -> bool:
    """Whether transformers knows how to recompute this family's layers."""
    return model.supports_gradient_checkpointing and bool(decoder_layers(model))


@contextmanager
def recomputing(
    model: PreTrainedModel, policy: RecomputePolicy, itemsize: int
) -> Iterator[Recompute]:
    """Inside, layers of `model` can be made again; its fast modules are in place.

    Raises:
        ModelError: the family's layers cannot, and the policy insists.
    """
    possible = can_recompute(model)
    if not possible and policy.level not in ("none", "auto"):
        raise ModelError(
            f"a {model.config.model_type!r} model cannot recompute its layers; set "
            "train.gradient_checkpointing: false."
        )
    if not possible or policy.level == "none":
        yield Recompute(model, RecomputePolicy("none"), itemsize)
        return
    _enable(model)
    try:
        recompute = Recompute(model, policy, itemsize)
        if policy.level == "selective" and not recompute.can_select:
            raise ModelError(
                f"selective recompute is of the fast MLPs, of which a {model.config.model_type!r} "
                "model with these kernels has none; possible: auto, true, false. Set "
                "train.gradient_checkpointing."
            )
        recompute.prepare(0)
        yield recompute
    finally:
        _disable(model)


def _enable(model: PreTrainedModel) -> None:
    try:
        getattr(model, f"{_verb(model)}_checkpointing_enable")({"use_reentrant": False})
        # Only reentrant recompute needs inputs with a gradient; it would be made for nothing in the
        # first layer, and transformers leaves the hook in the model.
        model.disable_input_require_grads()
    except ValueError as error:
        raise ModelError(
            f"a {model.config.model_type!r} model cannot recompute its layers: {error} Set "
            "train.gradient_checkpointing: false."
        ) from error


def _disable(model: PreTrainedModel) -> None:
    getattr(model, f"{_verb(model)}_checkpointing_disable")()


def _verb(model: PreTrainedModel) -> str:
    # transformers renamed the methods, with a warning at the old names: 5.17 has only the old ones.
    return "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
