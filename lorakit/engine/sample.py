"""A few layers of a model, with random weights: what a layer takes can be timed before any weight
is downloaded or read."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lorakit.adapters.attach import Attached, attach_targets
from lorakit.adapters.contract import AdaptedModule
from lorakit.adapters.expert_targets import all_experts
from lorakit.adapters.inits import init
from lorakit.adapters.modules import TrainedCopy
from lorakit.adapters.targets import Targets
from lorakit.base import packing
from lorakit.base.frozen_linear import MovableWeight
from lorakit.base.meta_model import empty_model
from lorakit.engine.activations import decoder_layers


def sample_model(
    config: PreTrainedConfig,
    places: Sequence[int],
    *,
    vocab_size: int,
    like: MovableWeight | None,
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    """A frozen model of some layers and words of another, with random weights, in eval mode.

    Args:
        config: checked; of the whole model.
        places: of the layers that are kept, ascending; see `can_choose`.
        vocab_size: words that are kept, at most.
        like: a packed weight, as which those of this model are packed; None: they stay dense.
        dtype: of dense weights and computation.
        device: where it computes.
    """
    # All up to the last of them at first: what a layer is made of follows from its number.
    short = _shortened(config, places[-1] + 1, vocab_size)
    model = empty_model(short, dtype=dtype)
    _keep(model, places)
    # Nothing that draws later may notice.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model.to_empty(device=device)
        model.init_weights()  # some divide by the number of layers less one: before it changes
    _keep_values(model.config.get_text_config(), places)
    for path in packing.packable(model):
        stored = packing.stored_at(model, path)
        packing.replace_layer(
            model, path, stored if like is None else like.pack_like(stored.dequantize().detach())
        )
    return model.requires_grad_(False).eval()


def can_choose(model: PreTrainedModel) -> bool:
    """Whether single layers of a family can be taken out; otherwise only its first ones can be
    kept, because it has none that are told apart, or they share a table."""
    shared = getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None)
    return bool(decoder_layers(model)) and not shared


def _shortened(config: PreTrainedConfig, num_layers: int, vocab_size: int) -> PreTrainedConfig:
    """A copy with the first layers and words alone."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    _keep_values(text, range(min(max(num_layers, 2), text.num_hidden_layers)))
    text.vocab_size = min(text.vocab_size, vocab_size)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(text, name, None) is not None:
            setattr(text, name, 0)  # may be beyond the words that are left
    return short


def _keep(model: PreTrainedModel, places: Sequence[int]) -> None:
    """Take out all other decoder layers."""
    layers = {id(layer) for layer in decoder_layers(model)}
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and layers & {id(one) for one in child}:
                setattr(module, name, nn.ModuleList([child[place] for place in places]))


def _keep_values(text: PreTrainedConfig, places: Sequence[int]) -> None:
    """Of values with an entry for each layer, those of these layers."""
    before = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == before:
            setattr(text, name, [value[place] for place in places])
    text.num_hidden_layers = len(places)


def attach_like(
    sample: PreTrainedModel, whole: PreTrainedModel, adapter: Attached, places: Sequence[int]
) -> Attached:
    """Attach to `sample` what `adapter` has in those layers of `whole`, and outside of all layers.

    The ranks are those that are attached, whatever a config says: those of a saved adapter too. Of
    trained rows of embeddings, which take no time, there are none.
    """
    theirs, own = _layer_names(whole), _layer_names(sample)
    named = {f"{theirs[place]}.": f"{name}." for name, place in zip(own, places, strict=False)}
    found: dict[str, AdaptedModule] = {}
    for name, module in adapter.modules.items():
        layer = next((one for one in theirs if name.startswith(f"{one}.")), None)
        if layer is None:
            found[name] = module
            continue
        for of_whole, of_sample in named.items():
            if of_whole == f"{layer}.":
                found[of_sample + name.removeprefix(of_whole)] = module
    experts = all_experts(sample)
    modules = dict(sample.named_modules()) | experts
    adapted = {n: modules[n] for n, m in found.items() if m.facts is not None and n in modules}
    targets = Targets(
        adapted,
        {n: modules[n] for n, m in found.items() if isinstance(m, TrainedCopy) and n in modules},
        {},
        {},
        frozenset(n for n in adapted if n not in experts and found[n].target_parameter is not None),
    )
    ranks = {n: found[n].facts.r for n in adapted}  # type: ignore[union-attr]
    names = targets.pattern_names()
    usual = Counter(ranks.values()).most_common(1)
    config = adapter.config.model_copy(
        update={
            "r": usual[0][0] if usual else adapter.config.r,
            "rank_pattern": {re.escape(names[n]): r for n, r in ranks.items() if r != usual[0][0]},
            "alpha_pattern": {},
            "bias": "none",
            "init_lora_weights": True,
            "path": None,
        }
    )
    return attach_targets(sample, config, targets, init(True).initialize)


def _layer_names(model: PreTrainedModel) -> list[str]:
    """Of the decoder layers, or of the whole backbone of a family without."""
    layers = {id(layer) for layer in decoder_layers(model)}
    return [name for name, module in model.named_modules() if id(module) in layers]
