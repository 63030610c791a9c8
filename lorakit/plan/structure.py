"""A base without data with its adapter: what of it is the same however its weights are stored.

Who compares 16 bit with 4 plans one base twice. Its modules, its adapter, the optimizer's state and
the operations are then found once; only the storages of its frozen weights are exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.base.dtypes import compute_dtype
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear, FrozenWeight
from lorakit.engine.model_flops import ModelFlops, count_flops
from lorakit.engine.recompute import can_recompute
from lorakit.optimizers.state_plan import StatePlan, state_plan_of
from lorakit.plan.rehearsal import Layers
from lorakit.recipe import TrainSection


class Structure:
    """Modules and adapter, on the meta device.

    Attributes:
        adapter: of the model.
        frozen: {path in the model without its adapter: what has a weight that is stored packed in
            a base that is quantized}.
        device_type: that computes.
        dtype: it computes in.
        stored: the weights of `frozen`, as they are stored now.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: Attached,
        frozen: Mapping[str, FrozenLinear | FrozenExperts],
        device_type: str,
    ) -> None:
        self.adapter, self.frozen, self.device_type = adapter, frozen, device_type
        self.dtype = compute_dtype(model)
        self._model = model
        self.stored: Mapping[str, FrozenWeight] = {
            path: module.stored for path, module in frozen.items()
        }
        self._states: dict[tuple[object, ...], StatePlan] = {}

    def model(self, stored: Mapping[str, FrozenWeight]) -> PreTrainedModel:
        """The model with its frozen weights stored so. There is one model: whoever got it with
        other storages has it with these from now on."""
        if stored is not self.stored:
            for path, module in self.frozen.items():
                module.stored = stored[path]
            self.stored = stored
        return self._model

    @cached_property
    def can_store_otherwise(self) -> bool:
        """Whether the same model with other storages is what would be built with them: an init may
        have made a part of the weights, and weights that are tied are packed one by one."""
        tied = self._model.all_tied_weights_keys
        names = {*tied, *tied.values()}
        return not self.adapter.starts() and not any(
            path in names or f"{path}.weight" in names for path in self.frozen
        )

    @cached_property
    def layers(self) -> Layers:
        """What the layers keep, and which are alike."""
        return Layers.of(self._model)

    @cached_property
    def can_recompute(self) -> bool:
        """Whether the layers can be made again in the backward pass."""
        return can_recompute(self._model)

    @cached_property
    def flops(self) -> ModelFlops:
        """Operations of passes."""
        return count_flops(self._model, self.adapter, self.dtype.itemsize)

    def state(self, train: TrainSection) -> StatePlan:
        """`state_plan_of` the optimizer, once for what is alike."""
        key = (
            train.optim,
            train.optim_memory,
            train.learning_rate,
            train.loraplus_lr_ratio,
            train.loraplus_lr_embedding,
        )
        if key not in self._states:
            parameters = self.adapter.parameters()
            self._states[key] = state_plan_of(self._model, parameters, train, self.device_type)
        return self._states[key]
