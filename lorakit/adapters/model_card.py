"""The README.md beside a saved adapter: what it is and how to load it, nothing that was not
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lorakit.adapters.attached import Attached
from lorakit.adapters.embedding import AdaptedEmbedding
from lorakit.adapters.low_rank import spread
from lorakit.adapters.modules import AdaptedLinear
from lorakit.adapters.token_rows import EmbeddingRows, HeadRows
from lorakit.base.info import BaseInfo
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.recipe.builtin_names import is_builtin_model
from lorakit.recipe.quantizations import BLOCKWISE

UNNAMED = "not named (a local folder, or made in memory)"
BUILTIN = "the one that ships with lorakit (`builtin`)"

CARD = """---
{base_line}library_name: peft
tags:
- {tag}
- lorakit
---

# {title} adapter

Base model: {base}. Trained parameters: {trainable:,} of {total:,}, in {layers}.
Rank {r}, alpha {alpha}{rslora}. Written by lorakit in PEFT's format.

```python
from transformers import AutoModelForCausalLM
from peft import PeftModel

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base_code}), "this folder")
```
{quantized}{start}{rows}
The tokenizer and the chat template it was trained with lie in this folder if
`tokenizer_config.json` does: `AutoTokenizer.from_pretrained("this folder")`. Otherwise the base's.

No evaluation is part of this file; see the run it came from.
"""


QUANTIZED = """
The base was stored as {quantization} while this was trained{details}: on the
dense base, as above, the logits are others. `lorakit merge` writes a plain model with the weights
that were trained on.
"""


ROWS = """
Beside that, rows of {count} token ids are trained ({names}).
A base whose table has fewer than {needed} rows has to grow first:
`model.resize_token_embeddings({needed})`; `lorakit.load_adapter` does so by itself.
"""


START = """
It started with init `{init}`{changed}. {forms}
{errors}
"""

TWO_FORMS = """This folder is the converted plain form, of twice the rank,
for the unchanged base: PEFT and other engines load it as above. `unconverted/` holds the form that
was trained; `lorakit.load_adapter` takes it from here by itself, and training can go on from it."""

ONE_FORM = """The factors began as a correction of the quantized base, so load
this adapter on that base; on a dense one it adds a correction that is not needed. `unconverted/`
holds what it started from; `lorakit.load_adapter` takes it from here by itself."""

EXACT = """
On this dense base both forms compute the same but for rounding."""

ERRORS = """
Error of the quantized base with the start against the original weights, as a part of what it is
without: {ratio}.{difference}"""

NO_ERROR = "there is none without it"

DIFFERENCE = """On the base quantized as it is, the plain form is not quite the model that was
trained: its weights differ by {difference} of their norm, because
the base is quantized after the subtraction in training and before it there."""


def model_card(adapter: Attached, values: Mapping[str, object], base_info: BaseInfo | None) -> str:
    """The card's text.

    Args:
        values: the fields of adapter_config.json.
        base_info: how the base was loaded; None where lorakit did not load it.
    """
    base = values["base_model_name_or_path"]
    builtin = base_info is not None and is_builtin_model(base_info.source)
    hub_id = is_hub_id(base)
    return CARD.format(
        base_line=f"base_model: {base}\n" if hub_id else "",
        tag="dora" if values["use_dora"] else "lora",
        title="DoRA" if values["use_dora"] else "LoRA",
        base=base if hub_id else BUILTIN if builtin else UNNAMED,
        trainable=adapter.trainable,
        total=adapter.total,
        layers=_layers(adapter),
        r=values["r"],
        alpha=values["lora_alpha"],
        rslora=", rsLoRA scaling" if values["use_rslora"] else "",
        rows=_rows(adapter),
        base_code=repr(base) if hub_id else '"base model"',
        quantized=_quantized(base_info),
        start=_start(adapter),
    )


def is_hub_id(base: object) -> bool:
    """Whether a base's name is one of the hub's: only that is a valid `base_model` of a card, paths
    are private to a machine.
    """
    is_id = isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/", "~"))
    return is_id and not Path(str(base)).exists()


def difference_note(differences: Sequence[float]) -> str:
    """How far the trained weights are from those of the plain form, by layer, in words.

    Args:
        differences: as parts of the original weights' norms.
    """
    return DIFFERENCE.format(difference=spread([100 * found for found in differences], " %"))


def _start(adapter: Attached) -> str:
    """What an init that is part of the base means for who loads the adapter."""
    starts = [kept.start for kept in adapter.starts().values()]
    if not starts:
        return ""
    subtracts = any(start.subtracted is not None for start in starts)
    errors = EXACT if subtracts else ""
    if adapter.start_errors:
        found = adapter.start_errors.values()
        ratios = [error.ratio for error in found if error.ratio is not None]
        difference = "\n" + difference_note([error.plain_difference for error in found])
        errors = ERRORS.format(
            ratio=f"{spread(ratios)} over {len(ratios)} layers" if ratios else NO_ERROR,
            difference=difference if subtracts else "",
        )
    return START.format(
        init=adapter.config.init_lora_weights,
        changed=", which changed the base" if subtracts else "",
        forms=TWO_FORMS if subtracts else ONE_FORM,
        errors=errors,
    )


def _quantized(info: BaseInfo | None) -> str:
    # A quantized checkpoint is loaded as what it was trained on by everybody.
    if info is None or info.quantization in ("none", CHECKPOINT):
        return ""
    if info.quantization not in BLOCKWISE:
        return QUANTIZED.format(quantization=info.quantization, details="")
    double = "double" if info.double_quantization else "no double"
    details = f" (block size {info.block_size}, {double} quantization)"
    return QUANTIZED.format(quantization=info.quantization, details=details)


def _layers(adapter: Attached) -> str:
    modules = adapter.modules
    num_linear = sum(isinstance(module, AdaptedLinear) for module in modules.values())
    tables = [name for name, module in modules.items() if isinstance(module, AdaptedEmbedding)]
    listed = [f"the embedding {name}" for name in tables]
    return " and ".join([f"{num_linear} linear layers", *listed])


def _rows(adapter: Attached) -> str:
    tables = {
        name: module.token_ids
        for name, module in adapter.modules.items()
        if isinstance(module, EmbeddingRows | HeadRows)
    }
    if not tables:
        return ""
    ids = torch.cat([token_ids.cpu() for token_ids in tables.values()])
    return ROWS.format(count=len(ids.unique()), names=", ".join(tables), needed=int(ids.max()) + 1)
