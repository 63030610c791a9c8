"""Files of PEFT's that would be another model here than there: refused by what makes it so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel

from lorakit.adapters.targets import Targets
from lorakit.base.frozen_experts import expert_layouts
from lorakit.base.frozen_linear import is_conv1d
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig

SINGLE_EXPERT = re.compile(r"\.experts\.\d+\.")


def refuse_other_start(
    path: Path, model: PreTrainedModel, config: LoraConfig, targets: Targets
) -> None:
    """Raise AdapterError where PEFT does an init again (pissa, olora) otherwise than lorakit does.

    Args:
        path: of the adapter, for messages.
        model: the base.
        config, targets: of the adapter.
    """
    _refuse_transposed_olora(path, config, targets)
    _refuse_tied_head(path, model, config, targets)


def refuse_single_experts(path: Path, model: PreTrainedModel, names: Iterable[str]) -> None:
    """Raise AdapterError for factors of every expert's own layers, as transformers 4 had them."""
    single = [name for name in names if SINGLE_EXPERT.search(name)]
    if single and expert_layouts(model):
        raise AdapterError(
            f"{path} holds {single[0]!r}: it was trained with transformers 4, where each expert "
            "had layers of its own; possible are adapters of the fused experts that transformers 5 "
            "has. Load it with PEFT 0.21 under transformers 5, which joins the factors (the ranks "
            "of gate and up add up), and save it from there."
        )


def _refuse_transposed_olora(path: Path, config: LoraConfig, targets: Targets) -> None:
    """PEFT 0.21 decomposes a Conv1D as it lies, (I, O), and takes the product out as if (O, I)."""
    conv1d = [name for name, module in targets.adapted.items() if is_conv1d(module)]
    if config.init_lora_weights == "olora" and conv1d:
        raise AdapterError(
            f"{path} has init_lora_weights 'olora' on {conv1d[0]}, a Conv1D, whose transposed "
            "weight PEFT decomposes; possible: olora on other linear layers, or converted to a "
            "plain LoRA. Convert it with PEFT's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)."
        )


def _refuse_tied_head(
    path: Path, model: PreTrainedModel, config: LoraConfig, targets: Targets
) -> None:
    """PEFT 0.21 writes what pissa or olora leaves of a tied head into the embedding as well."""
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    names = [name for name, module in targets.adapted.items() if module is head]
    if names and head.weight is inputs.weight:
        raise AdapterError(
            f"{path} has init_lora_weights {config.init_lora_weights!r} on {names[0]}, "
            "which is tied to the input embedding: PEFT changes both, lorakit the head alone; "
            "possible: a head of its own, or converted to a plain LoRA. Train it without that "
            "target, or untie the base first."
        )
