"""What PEFT's files hold beside an adapter's own tensors: copies of the base, and biases twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorakit.adapters.save import PREFIX
from lorakit.adapters.targets import Targets
from lorakit.base.frozen_linear import is_linear
from lorakit.errors import AdapterError

log = logging.getLogger(__name__)

Read = Callable[[Iterable[str]], dict[str, torch.Tensor]]


def copies_of_base(
    model: PreTrainedModel, targets: Targets, names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """{name in PEFT's file: the base's tensor} of those `names` that copy the base.

    PEFT saves embeddings and output head beside the adapter when a target is one of them, or when
    asked to; and, with `bias: all`, the frozen biases of modules trained in full.
    """
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    wanted = {name.removeprefix(PREFIX).replace(".base_layer.", "."): name for name in names}
    found: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(path, recurse=False):
            if module in embeddings and own in wanted:
                found[wanted[own]] = parameter
    for name, module in targets.trained.items():
        for below, parameter in module.named_parameters():
            frozen = f"{name}.original_module.{below}"
            if frozen in wanted:
                found[wanted[frozen]] = parameter
    return found


def doubled_biases(targets: Targets, names: Iterable[str]) -> dict[str, str]:
    """{name in PEFT's file: the other name of the same tensor}.

    With `bias: all` PEFT saves the biases of modules trained in full under two names.
    """
    wanted = set(names)
    doubled = {}
    for name, module in targets.trained.items():
        for below, _ in module.named_parameters():
            second = f"{PREFIX}{name}.modules_to_save.{below}"
            if second in wanted:
                doubled[second] = f"{PREFIX}{name}.{below}"
    return doubled


def residuals(targets: Targets, copies: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Those of `copies` that are what an init (pissa, olora) left of an adapted head: what it
    leaves of the base's own weight is computed again, and they are not read.

    Args:
        copies: {name in PEFT's file: the base's tensor}.
    """
    heads = (f"{PREFIX}{n}.base_layer.weight" for n, m in targets.adapted.items() if is_linear(m))
    found = copies.keys() & set(heads)
    for name in sorted(found):
        log.info("%r is what the init left of the base's weight: computed again, not read", name)
    return frozenset(found)


def check_copies(
    path: Path, copies: Mapping[str, torch.Tensor], doubled: Mapping[str, str], read: Read
) -> None:
    """Raise AdapterError where a saved copy is not what it copies.

    On the meta device only shapes can be compared.
    """
    for name, saved in read(copies).items():
        own = copies[name].detach()
        same = saved.shape == own.shape
        if same and not own.is_meta:
            # Saved from the same weights in another dtype: equal in the narrower of the two.
            narrow = max(saved.dtype, own.dtype, key=lambda dtype: torch.finfo(dtype).eps)
            same = torch.equal(saved.to(narrow), own.to("cpu", narrow))
        if not same:
            raise AdapterError(
                f"{path} holds {name!r} {tuple(saved.shape)}, which differs from the base's weight "
                f"{tuple(own.shape)}; possible: a copy of it, or modules_to_save. Load the base "
                "model it was trained on."
            )
    for name, saved in read(doubled).items():
        other = read([doubled[name]])[doubled[name]]
        if not torch.equal(saved, other):
            raise AdapterError(
                f"{path} holds {name!r} and {doubled[name]!r}, which differ; possible: one tensor "
                "under both names, as PEFT writes it. Save it again with PEFT."
            )
