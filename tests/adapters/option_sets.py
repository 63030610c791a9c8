"""Adapter configs drawn at random over the options that lorakit and PEFT share, by seed.

Each has at least one option of every group; patterns overlap on purpose, and token ids, layers,
names and regexes are drawn too. Not drawn: `target_parameters` (tests/adapters/test_experts.py),
`eva` and `orthogonal`, which PEFT saves as factors like any others, and rare spellings of what is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

FAMILIES = ("llama", "qwen2", "gpt2", "gemma3_text")


@dataclass(frozen=True)
class Names:
    """What a family calls its modules."""

    linear: tuple[str, ...]
    attention: str
    embedding: str
    norm: str
    head: str = "lm_head"
    layers: str = "layers"


LLAMA = Names(
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "self_attn",
    "embed_tokens",
    "model.norm",
)
NAMES = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "gemma3_text": LLAMA,
    "gpt2": Names(("attn.c_attn", "attn.c_proj", "mlp.c_fc"), "attn", "wte", "ln_f", layers="h"),
}


@dataclass(frozen=True)
class OptionSet:
    """One drawn config: for a tiny model of `family`, tied or not, `options` as PEFT names them."""

    family: str
    tied: bool
    options: dict[str, Any]


def draw(seed: int) -> OptionSet:
    """The config of a seed."""
    rng = random.Random(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    names = NAMES[family]
    tied = rng.random() < 0.4
    options: dict[str, Any] = {
        "r": rng.choice([1, 2, 3, 4, 8]),
        "lora_alpha": rng.choice([1, 2, 4, 8]),
        "lora_dropout": rng.choice([0.0, 0.1]),
        "use_rslora": rng.random() < 0.4,
        "use_dora": rng.random() < 0.35,
        "init_lora_weights": rng.choice([True, False, "gaussian"]),
        "bias": rng.choice(["none", "none", "lora_only", "all"]),
    }
    options |= _targets(rng, names)
    if rng.random() < 0.4 and "layers_to_transform" not in options:
        options["exclude_modules"] = rng.choice(
            [[rng.choice(names.linear)], rf".*\.{names.layers}\.0\..*"]
        )
    options |= _patterns(rng, names)
    options |= _beside(rng, names, options, tied)
    # Drawn apart, so that what is above stays what it was.
    options |= _harder(random.Random(seed + 10_000), family, names, options, tied)
    return OptionSet(family, tied, options)


def _harder(
    rng: random.Random, family: str, names: Names, options: dict[str, Any], tied: bool
) -> dict[str, Any]:
    """Inits that change the base, an adapted head, layers without targets, tying."""
    harder: dict[str, Any] = {}
    if rng.random() < 0.35:
        # olora on Conv1D is refused: PEFT decomposes the transposed weight.
        harder["init_lora_weights"] = rng.choice(
            ["pissa", "pissa" if family == "gpt2" else "olora"]
        )
    listed = isinstance(options["target_modules"], list)
    indices = options.get("trainable_token_indices")
    rows_of_head = isinstance(indices, dict) and names.head in indices
    head_is_free = names.head not in options.get("modules_to_save", []) and not rows_of_head
    if listed and head_is_free and not tied and rng.random() < 0.4:
        harder["target_modules"] = [*options["target_modules"], names.head]
    if listed and "exclude_modules" not in options and rng.random() < 0.3:
        harder["layers_to_transform"] = [0, 1]
        harder["exclude_modules"] = rf".*\.{names.layers}\.1\..*"
    if listed and options.get("layers_pattern") == names.layers and rng.random() < 0.5:
        harder["layers_pattern"] = rf"{names.layers[0]}\w*"
    if not tied and rng.random() < 0.6:
        harder["ensure_weight_tying"] = True  # where nothing is tied PEFT passes over it
    return harder


def _targets(rng: random.Random, names: Names) -> dict[str, Any]:
    form = rng.choice(["all-linear", "list", "list", "regex"])
    if form == "all-linear":
        return {"target_modules": "all-linear"}
    chosen = rng.sample(names.linear, rng.randint(2, len(names.linear)))
    if form == "regex":
        leaves = "|".join(name.replace(".", r"\.") for name in chosen)
        return {"target_modules": rf".*\.({leaves})"}
    options: dict[str, Any] = {"target_modules": chosen}
    if rng.random() < 0.4:
        options["target_modules"] = [*chosen, names.embedding]
    elif rng.random() < 0.5:
        options["layers_to_transform"] = rng.choice([1, [0], [0, 1]])
        options["layers_pattern"] = rng.choice([None, names.layers, [names.layers]])
    return options


def _patterns(rng: random.Random, names: Names) -> dict[str, Any]:
    """Keys that match a module each on its own, by layer and by regex: they overlap."""
    keys = [names.linear[0], rf"{names.layers}\.1\..*", rf".*\.{names.attention}\..*"]
    options = {}
    for field, values in (("rank_pattern", [1, 2, 5, 6]), ("alpha_pattern", [2, 3, 5, 9])):
        if rng.random() < 0.6:
            chosen = rng.sample(keys, rng.randint(1, len(keys)))
            # PEFT sorts them when it saves. Ranks can be told from the tensors, alphas cannot.
            chosen = sorted(chosen) if field == "alpha_pattern" else chosen
            options[field] = {key: rng.choice(values) for key in chosen}
    return options


def _beside(
    rng: random.Random, names: Names, options: dict[str, Any], tied: bool
) -> dict[str, Any]:
    """Modules in full and token rows, where no other option takes the same module."""
    embedding_free = names.embedding not in options["target_modules"]
    beside: dict[str, Any] = {}
    saved = []
    if rng.random() < 0.4:
        # The bare word also ends other names: PEFT takes them all.
        saved.append(rng.choice([names.norm, names.norm.rpartition(".")[2]]))
    if rng.random() < 0.25 and not tied:
        saved.append(names.head)
    if saved:
        beside["modules_to_save"] = saved
    if embedding_free and rng.random() < 0.5:
        ids = rng.sample(range(5, 300), rng.randint(1, 5))
        forms: list[Any] = [ids, {names.embedding: ids}]
        if not tied and names.head not in saved:
            forms.append({names.embedding: ids, names.head: rng.sample(range(300), 3)})
        beside["trainable_token_indices"] = rng.choice(forms)
    return beside
