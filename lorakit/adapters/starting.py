"""Giving the layers of a model their start: what an init asks for is done to the base here.

W original weight, Q stored weight, A0 B0 the factors that are taken out of the base.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from transformers import PreTrainedModel

from lorakit.adapters.attached import Attached, StartError
from lorakit.adapters.contract import Factors, InitRequest, Start
from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.kept_start import KeptStart
from lorakit.adapters.low_rank import (
    PARTS,
    product,
    spread,
    start_from,
    start_tensors,
    subtract,
    wide,
)
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.fingerprint import sampled_sha256, stored_tensors
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.repack import Repacker, is_packed
from lorakit.base.storages.dense import DenseWeight
from lorakit.errors import AdapterError, ModelError
from lorakit.recipe import LoraConfig

Initialize = Callable[[InitRequest], Start]

log = logging.getLogger(__name__)


class Starter:
    """Starts the adapted layers of one model, each by itself; the model is not changed.

    Args:
        model: the base.
        config: of the adapter.
        initialize: of the init.
        measured: {module name: what the init's `prepare` found out}.
        seed: each module draws from a generator of its own, seeded by this and its name.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: LoraConfig,
        initialize: Initialize,
        measured: Mapping[str, torch.Tensor],
        *,
        seed: int,
    ) -> None:
        self._config = config
        self._initialize = initialize
        self._measured = measured
        self._seed = seed
        self._repacker = Repacker(model)
        self._device = model.device

    @torch.no_grad()
    def start(self, module: AdaptedLinear) -> StartError | None:
        """Fill the adapter of a layer, which may get another frozen weight.

        Returns:
            What the init did to the layer's quantization error; None where there is none.

        Raises:
            AdapterError: the init needs an original weight that cannot be read.
        """
        name, base, adapter = module.name, module.base_layer, module.adapter
        request = InitRequest(
            name=name,
            in_features=base.in_features,
            out_features=base.out_features,
            r=adapter.r,
            scaling=adapter.scaling,
            config=self._config,
            base=base,
            is_packed=is_packed(base),
            generator=module_generator(self._seed, name),
            original=lambda: self._repacker.original(name, base),
            pack=lambda weight: self._repacker.pack(base, weight),
            measured=self._measured.get(name),
        )
        try:
            # On the meta device inits make shapes: `plan` counts what they keep.
            with torch.device("meta") if adapter.lora_A.is_meta else nullcontext():
                start = self._initialize(request)
            error = self._apply(module, start)
        except ModelError as error:
            raise AdapterError(
                f"init_lora_weights {self._config.init_lora_weights!r}: {error}"
            ) from error
        except torch.linalg.LinAlgError as error:
            raise AdapterError(
                f"init_lora_weights {self._config.init_lora_weights!r} cannot decompose the weight "
                f"of {name!r} ({error}); possible: finite weights. Check the base's files, or "
                "choose another init."
            ) from error
        adapter.lora_A.copy_(start.lora_A)
        adapter.lora_B.copy_(start.lora_B)
        adapter.begin(module.base_layer)
        return error

    def start_experts(self, module: AdaptedExperts) -> None:
        """Fill the factors expert by expert, with an init that looks at shapes only."""
        factors = module.adapter
        if factors.lora_A.is_meta:
            return
        width, height = factors.lora_A.shape[1], factors.lora_B.shape[0]
        nothing = torch.empty(height, width, device="meta")
        request = InitRequest(
            name=module.name,
            in_features=width,
            out_features=height,
            r=factors.r,
            scaling=module.scaling,
            config=self._config,
            base=FrozenLinear(DenseWeight(nothing)),
            is_packed=False,
            generator=module_generator(self._seed, module.name),
            original=lambda: nothing,
            pack=DenseWeight,
            measured=None,
        )
        for expert in range(factors.num_experts):
            start = self._initialize(request)
            factors.fill(expert, start.lora_A, start.lora_B)

    def _apply(self, module: AdaptedLinear, start: Start) -> StartError | None:
        if not start.is_part_of_base:
            assert start.subtracted is None
            return None
        name, base, scaling = module.name, module.base_layer, module.adapter.scaling
        start = _on_device(start, self._device)
        sha256 = None
        if start.subtracted is not None:
            sha256 = None if self._device.type == "meta" else _fingerprint(base)
            weight = self._repacker.original(name, base)
            rest = residual(self._repacker, name, base, weight, start.subtracted, scaling)
            module.base_layer = rest
        module.kept_start = KeptStart(start, scaling, sha256)
        return self._error(name, base, module.base_layer, scaling, start)

    def _error(
        self, name: str, base: FrozenLinear, used: FrozenLinear, scaling: float, start: Start
    ) -> StartError | None:
        if not is_packed(base) or self._device.type == "meta":
            return None
        weight = wide(self._repacker.original(name, base))
        plain, stored = (
            layer.stored.dequantize(weight.dtype, weight.device) for layer in (base, used)
        )
        without_init = (weight - plain).norm().item()
        added = product(weight, Factors(start.lora_A, start.lora_B), scaling)
        with_init = (weight - stored - added).norm().item()
        difference = 0.0
        if start.subtracted is not None:
            converted = plain - product(weight, start.subtracted, scaling)
            difference = ((converted - stored).norm() / weight.norm()).item()
        ratio = with_init / without_init if without_init > 0 else None
        return StartError(ratio, difference)


@torch.no_grad()
def restore_starts(
    model: PreTrainedModel, adapter: Attached, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Make the adapter of `model` start from the very factors that `Attached.kept_starts` gave.

    An init that is computed again on another machine, or with another number of threads, may differ
    in its last bits, and with it what is left in the base. Trained parameters are not touched, but
    for those that a kind sets in `begin`: restore them afterwards.

    Raises:
        AdapterError: a weight that has to be packed again cannot be read.
    """
    repacker = Repacker(model)
    for name, kept in adapter.starts().items():
        module = adapter.modules[name]
        assert isinstance(module, AdaptedLinear)
        given = parts_of(name, tensors)
        present = kept.tensors()
        if given.keys() == present.keys() and all(
            torch.equal(present[part].cpu(), given[part].cpu()) for part in given
        ):
            continue
        start = _on_device(start_from(given), model.device)
        base, scaling = module.base_layer, module.adapter.scaling
        if start.subtracted is not None:
            try:
                weight = repacker.reread(name, base)
            except ModelError as error:
                raise AdapterError(str(error)) from error
            module.base_layer = residual(repacker, name, base, weight, start.subtracted, scaling)
        module.kept_start = KeptStart(start, scaling, kept.original_sha256)
        module.adapter.begin(module.base_layer)


def residual(
    repacker: Repacker,
    name: str,
    base: FrozenLinear,
    weight: torch.Tensor,
    taken: Factors,
    scaling: float,
) -> FrozenLinear:
    """The layer over pack(W - scaling * B0 A0), stored and placed as `base` is."""
    rest = subtract(weight, taken, scaling)
    stored = repacker.placed(name, base, repacker.pack(base, rest))
    layer = FrozenLinear(stored, base.bias, fan_in_fan_out=base.fan_in_fan_out)
    return layer.train(base.training)


def log_start_errors(init: bool | str, errors: Mapping[str, StartError]) -> None:
    """Say once how much of the quantization error an init left."""
    if not errors:
        return
    ratios = [error.ratio for error in errors.values() if error.ratio is not None]
    log.info(
        "init %s: error of the quantized base against the original weights, as a part of what it "
        "is without the init: %s",
        init,
        f"{spread(ratios)} over {len(ratios)} layers" if ratios else "there is none without it",
    )
    larger = [name for name, error in errors.items() if error.ratio is None or error.ratio > 1]
    if larger:
        log.warning(
            "init %s makes the quantization error of %d layers larger, such as %s; another init, "
            "or a smaller lora_alpha, keeps the base closer to the original",
            init,
            len(larger),
            larger[0],
        )


def parts_of(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The factors of the module called `name` out of what `Attached.kept_starts` gave."""
    return {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}


def _on_device(start: Start, device: torch.device) -> Start:
    """The same as float32 tensors on `device`; shared factors stay shared."""
    moved = {
        part: tensor.to(device, torch.float32) for part, tensor in start_tensors(start).items()
    }
    return start_from(moved)


def _fingerprint(base: FrozenLinear) -> str:
    return sampled_sha256(stored_tensors("", base))


def module_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for the module called `name` alone, so the order of the modules is no
    matter.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
