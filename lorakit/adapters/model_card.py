"""The README.md beside a saved adapter: what it is and how to load it, nothing that was not
measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapters.attached import Attached

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

No evaluation is part of this file; see the run it came from.
"""


def model_card(adapter: Attached, values: Mapping[str, object]) -> str:
    """The card's text; `values` are the fields of adapter_config.json."""
    base = values["base_model_name_or_path"]
    # Only a hub id is a valid `base_model` of a card; paths are private to a machine.
    hub_id = isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/"))
    return CARD.format(
        base_line=f"base_model: {base}\n" if hub_id else "",
        tag="dora" if values["use_dora"] else "lora",
        title="DoRA" if values["use_dora"] else "LoRA",
        base=base if hub_id else "not named (a local folder, or made in memory)",
        trainable=adapter.trainable,
        total=adapter.total,
        num_modules=len(adapter.modules),
        r=values["r"],
        alpha=values["lora_alpha"],
        rslora=", rsLoRA scaling" if values["use_rslora"] else "",
        base_code=repr(base) if hub_id else '"base model"',
    )
