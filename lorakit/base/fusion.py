"""Parameters that transformers makes of several tensors of a checkpoint, such as fused experts: put
together as its loader does, and taken apart again as the checkpoint has them.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from lorakit.base.origin import Origin
from lorakit.errors import ModelError


class Fusion:
    """One parameter, and the tensors of the checkpoint it is made of.

    Args:
        plain: the model on the meta device, nothing packed.
        parameter: its name there.
        parts: its origins.

    Raises:
        ModelError: one of the tensors goes into other parameters too, or comes back under another
            name.
    """

    def __init__(self, plain: PreTrainedModel, parameter: str, parts: tuple[Origin, ...]) -> None:
        self._plain, self._parameter = plain, parameter
        self._parts = {p.tensor: p for p in sorted(parts, key=lambda p: dot_natural_key(p.tensor))}
        self._patterns: dict[str, str] = {}
        mapping = get_model_conversion_mapping(plain)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        own: dict[int, WeightConverter] = {}
        state, prefix = plain.state_dict(), plain.base_model_prefix
        for name in self._parts:
            _, pattern = rename_source_key(name, renamings, converters, prefix, state)
            assert pattern is not None  # that is what a converted origin is
            self._patterns[name] = pattern
            found = next(each for each in converters if pattern in each.source_patterns)
            own[id(found)] = found
        (self._converter,) = own.values()
        # transformers' names between renaming and conversion, which its reverse operation gives.
        self._names = {rename_source_key(name, renamings, [])[0]: name for name in self._parts}
        self._check()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors."""
        return tuple(self._parts)

    def dense(self) -> torch.Tensor:
        """The parameter, from the tensors as they are stored (packed ones dequantized)."""
        return self._fused({name: part.dense() for name, part in self._parts.items()})

    def split(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """{name in the checkpoint: a copy of its part of the parameter}."""
        converter = self._converter.reverse_transform()
        assert isinstance(converter, WeightConverter)
        (pattern,) = converter.source_patterns
        target, _ = converter.rename_source_key(self._parameter)
        converter.add_tensor(target, self._parameter, pattern, weight)  # type: ignore[arg-type]
        parts = converter.convert(target, model=self._plain, config=self._plain.config)
        found = {self._names.get(name, name): _single(value) for name, value in parts.items()}
        whole = torch.contiguous_format
        return {n: found[n].clone(memory_format=whole) for n in self._parts if n in found}

    def _fused(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        converter = deepcopy(self._converter)
        for name in list(tensors):
            tensor = tensors.pop(name)  # the converter's from here on
            converter.add_tensor(self._parameter, name, self._patterns[name], tensor)  # type: ignore[arg-type]
        made = converter.convert(self._parameter, model=self._plain, config=self._plain.config)
        return _single(made[self._parameter])

    def _check(self) -> None:
        """Without data: the parts come back under their own names."""
        shape = self._plain.get_parameter(self._parameter).shape
        one_to_one = len(self._converter.target_patterns) == 1
        back = self.split(torch.empty(shape, device="meta")) if one_to_one else {}
        if back.keys() != self._parts.keys():
            raise ModelError(
                f"{self._parameter!r} is made of {len(self._parts)} tensors of the checkpoint such "
                f"as {self.names[0]!r} in a way that cannot be undone; possible: weights that "
                "transformers writes again as they were."
            )


def source_of(plain: PreTrainedModel, parameter: str, parts: tuple[Origin, ...]) -> Origin | Fusion:
    """What a parameter is read from: its one tensor, or several.

    Raises:
        ModelError: there is none, or several that cannot be taken apart again.
    """
    if len(parts) == 1 and not parts[0].converted:
        return parts[0]
    if not parts:
        raise ModelError(f"the checkpoint has no tensor for {parameter!r}.")
    return Fusion(plain, parameter, parts)


def _single(value: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    return value[0] if isinstance(value, list) else value
