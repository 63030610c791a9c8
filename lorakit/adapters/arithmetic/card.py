"""The README.md of a result: what it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorakit.adapters.arithmetic.saved import SavedAdapter
from lorakit.adapters.model_card import difference_note, is_hub_id
from lorakit.adapters.stored_tensors import tensors_path

CARD = """---
{base_line}library_name: peft
tags:
- lora
- lorakit
---

# LoRA adapter, made from {count}

{method}

| weight | adapter | kind | SHA-256 of adapter_model.safetensors |
|---|---|---|---|
{rows}

Rank {r}, alpha {alpha}{rslora}{patterns}. Relative error against the exact result: {error:.2g}
(Frobenius norm, all layers together, factors as stored). Written by lorakit in PEFT's format.
{starts}
No evaluation is part of this file: what a combination of adapters can do must be measured.
"""


STARTS = """
`{name}` was made from its plain form. {difference}
"""


@dataclass(frozen=True)
class Ingredient:
    """An adapter that went in: its weight, folder name, kind and hash."""

    weight: float
    name: str
    kind: str
    sha256: str

    @classmethod
    def of(cls, weight: float, adapter: SavedAdapter) -> Ingredient:
        with tensors_path(adapter.folder).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(weight, adapter.name, kind_name(adapter), digest)


def kind_name(adapter: SavedAdapter) -> str:
    """Such as "LoRA", "rsLoRA", "DoRA, pissa"."""
    kind = "DoRA" if adapter.uses_dora else "rsLoRA" if adapter.config.use_rslora else "LoRA"
    return f"{kind}, {adapter.init}" if isinstance(adapter.init, str) else kind


def card(
    values: Mapping[str, object],
    ingredients: Sequence[Ingredient],
    *,
    method: str,
    error: float,
    differences: Mapping[str, Sequence[float]],
) -> str:
    """The README's text.

    Args:
        values: the fields of adapter_config.json.
        ingredients: what went in.
        method: what was done, in words.
        error: relative, against the exact result.
        differences: {adapter name: by layer, how far its trained weights are from its plain form}.
    """
    base = values["base_model_name_or_path"]
    rows = [f"| {i.weight:g} | {i.name} | {i.kind} | `{i.sha256}` |" for i in ingredients]
    return CARD.format(
        base_line=f"base_model: {base}\n" if is_hub_id(base) else "",
        count=f"{len(rows)} adapters" if len(rows) > 1 else "another adapter",
        method=method,
        rows="\n".join(rows),
        r=values["r"],
        alpha=values["lora_alpha"],
        rslora=", rsLoRA scaling" if values["use_rslora"] else "",
        patterns=", others by pattern" if values["rank_pattern"] or values["alpha_pattern"] else "",
        error=error,
        starts="".join(
            STARTS.format(name=name, difference=difference_note(found))
            for name, found in differences.items()
        ),
    )
