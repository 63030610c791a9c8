"""Plans that share a base say what plans say that build their own."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from lorakit.adapters import inits, kinds
from lorakit.base.storages import quantizations
from lorakit.errors import InputError
from lorakit.plan import blueprint
from lorakit.plan.blueprint import Workbench
from lorakit.plan.plan import plan
from lorakit.recipe import Recipe, parse_recipe
from tests import families

# Linear layers as Llama has them and transposed, experts in both layouts.
FEW = ("llama", "gpt2", "qwen3_moe", "gpt_oss")
IN_DEFAULT_RUN = ("llama", "gpt2")
INITS_IN_DEFAULT_RUN = ("pissa", "loftq")
EVALUATION = {
    "in_domain": "no/held.jsonl",
    "metrics": ["loss", "token_f1"],
    "max_new_tokens": 8,
    "max_generated": 2,
}


def recipe_of(folder: Path, quantization: str, **adapter: Any) -> Recipe:
    recipe = parse_recipe(
        {
            "base": {"model": str(folder), "dtype": "bfloat16"},
            "adapter": {"r": 4} | adapter,
            "data": {"train": "no/rows.jsonl", "validation": "no/others.jsonl"},
            "evaluate": EVALUATION,
        }
    )
    # Not parsed, so that what a recipe may not say is asked of the base too.
    base = recipe.base.model_copy(update={"quantization": quantization})
    return recipe.model_copy(update={"base": base})


def config_of(tmp_path: Path, model_type: str, **overrides: Any) -> Path:
    """A folder with the config.json of a tiny model and nothing else."""
    families.config(model_type, **overrides).save_pretrained(tmp_path)
    return tmp_path


def told(recipe: Recipe, bench: Workbench | None = None) -> str:
    """All that a plan says, or why there is none."""
    try:
        planned = plan(recipe, gpu="h100", bench=bench, reads_rows=False)
    except InputError as error:
        return str(error)
    return json.dumps(planned.to_json())


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The storages of the bases that are built."""
    found: list[str] = []
    build = blueprint._build

    def counted(recipe: Recipe, *args: Any) -> Any:
        found.append(recipe.base.quantization)
        return build(recipe, *args)

    monkeypatch.setattr(blueprint, "_build", counted)
    return found


def check_every_order(recipes: dict[str, Recipe]) -> None:
    """Whichever storage comes first, and when it is asked for again after others."""
    alone = {name: told(recipe) for name, recipe in recipes.items()}
    for order in permutations(recipes):
        bench = Workbench()
        for name in (*order, order[0]):
            assert told(recipes[name], bench) == alone[name], (order, name)


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(name, marks=() if name in IN_DEFAULT_RUN else pytest.mark.slow)
        for name in families.FAMILIES
    ],
)
def test_a_base_that_is_stored_otherwise_is_planned_like_one_that_is_built(
    model_type: str, tmp_path: Path
) -> None:
    folder = config_of(tmp_path, model_type)
    check_every_order({name: recipe_of(folder, name) for name in ("none", "nf4")})


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FEW)
def test_in_every_storage(model_type: str, tmp_path: Path) -> None:
    folder = config_of(tmp_path, model_type)
    check_every_order({name: recipe_of(folder, name) for name in quantizations()})


@pytest.mark.parametrize(
    "init",
    [
        pytest.param(name, marks=() if name in INITS_IN_DEFAULT_RUN else pytest.mark.slow)
        for name in inits.names()
    ],
    ids=str,
)
def test_with_every_init(init: bool | str, tmp_path: Path) -> None:
    """One that makes a part of the frozen weights, or that only packed ones can have, is not what
    another storage would have."""
    name = init.replace("N", "4") if isinstance(init, str) else init
    folder = config_of(tmp_path, "llama")
    recipes = {}
    for storage in ("none", "nf4"):
        plain = recipe_of(folder, storage)
        adapter = plain.adapter.model_copy(update={"init_lora_weights": name})
        recipes[storage] = plain.model_copy(update={"adapter": adapter})
    check_every_order(recipes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds.names())
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]},
        {"bias": "all", "layers_to_transform": [1]},
    ],
    ids=lambda options: ",".join(options),
)
def test_with_every_kind(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    options = kinds.kind(kind).PEFT_FIELDS | options
    folder = config_of(tmp_path, "llama", attention_bias=True)
    check_every_order({name: recipe_of(folder, name, **options) for name in ("none", "nf4")})


def test_storages_share_one_base(tmp_path: Path, built: list[str]) -> None:
    folder, bench = config_of(tmp_path, "llama"), Workbench()
    for name in ("nf4", "none", "int8", "nf4", "none"):
        told(recipe_of(folder, name), bench)
    assert built == ["nf4"]
    told(recipe_of(folder, "none", r=8), bench)
    assert built == ["nf4", "none"]


@pytest.mark.parametrize("first", ["none", "nf4"])
def test_what_an_init_takes_out_of_the_base_is_built_for_each(
    first: str, tmp_path: Path, built: list[str]
) -> None:
    folder, bench = config_of(tmp_path, "llama"), Workbench()
    names = [first, *({"none", "nf4"} - {first})]
    for name in names:
        told(recipe_of(folder, name, init_lora_weights="pissa"), bench)
    assert built == names
