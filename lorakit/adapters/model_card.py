"""The README.md beside a saved adapter: what it is and how to load it, nothing that was not
measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapters.attached import Attached
from lorakit.base.info import BaseInfo
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.recipe.builtin_names import is_builtin_model
from lorakit.recipe.rules import BLOCKWISE

UNNAMED = "not named (a local folder, or made in memory)"
BUILTIN = "the one that ships with lorakit (`builtin`)"

CARD = """---
{base_line}library_name: peft
tags:
- {tag}
- lorakit
---

# {title} adapter

Base model: {base}. Trained parameters: {trainable:,} of {total:,}, in {num_modules} linear layers.
Rank {r}, alpha {alpha}{rslora}. Written by lorakit in PEFT's format.

```python
from transformers import AutoModelForCausalLM
from peft import PeftModel

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base_code}), "this folder")
```
{quantized}
The tokenizer and the chat template it was trained with lie in this folder if
`tokenizer_config.json` does: `AutoTokenizer.from_pretrained("this folder")`. Otherwise the base's.

No evaluation is part of this file; see the run it came from.
"""


QUANTIZED = """
The base was stored as {quantization} while this was trained{details}: on the
dense base, as above, the logits are others. `lorakit merge` writes a plain model with the weights
that were trained on.
"""


def model_card(adapter: Attached, values: Mapping[str, object], base_info: BaseInfo | None) -> str:
    """The card's text.

    Args:
        values: the fields of adapter_config.json.
        base_info: how the base was loaded; None where lorakit did not load it.
    """
    base = values["base_model_name_or_path"]
    builtin = base_info is not None and is_builtin_model(base_info.source)
    # Only a hub id is a valid `base_model` of a card; paths are private to a machine.
    hub_id = isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/"))
    return CARD.format(
        base_line=f"base_model: {base}\n" if hub_id else "",
        tag="dora" if values["use_dora"] else "lora",
        title="DoRA" if values["use_dora"] else "LoRA",
        base=base if hub_id else BUILTIN if builtin else UNNAMED,
        trainable=adapter.trainable,
        total=adapter.total,
        num_modules=len(adapter.adapted),
        r=values["r"],
        alpha=values["lora_alpha"],
        rslora=", rsLoRA scaling" if values["use_rslora"] else "",
        base_code=repr(base) if hub_id else '"base model"',
        quantized=_quantized(base_info),
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
