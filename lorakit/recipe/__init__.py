"""Recipes: every knob, read from YAML or from Python. Imports no torch."""

from lorakit.recipe.read import dump_recipe, load_recipe, parse_recipe, recipe_schema
from lorakit.recipe.sections import (
    BaseSection,
    DataSection,
    DataSource,
    DtypeName,
    EvaConfig,
    EvaluateSection,
    LoftqConfig,
    LoraConfig,
    OneSource,
    OutputSection,
    Recipe,
    Section,
    SourceList,
    SourceListOrFraction,
    TrainSection,
)
from lorakit.recipe.sft_config import SFTConfig

__all__ = [
    "BaseSection",
    "DataSection",
    "DataSource",
    "DtypeName",
    "EvaConfig",
    "EvaluateSection",
    "LoftqConfig",
    "LoraConfig",
    "OneSource",
    "OutputSection",
    "Recipe",
    "SFTConfig",
    "Section",
    "SourceList",
    "SourceListOrFraction",
    "TrainSection",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_schema",
]
