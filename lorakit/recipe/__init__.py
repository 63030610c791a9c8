"""Recipes: every knob, read from YAML or from Python. Imports no torch."""

from lorakit.recipe.edit import rewrite_recipe
from lorakit.recipe.read import dump_recipe, edited, load_recipe, parse_recipe, recipe_schema
from lorakit.recipe.sections.adapter import EvaConfig, LoftqConfig, LoraConfig
from lorakit.recipe.sections.base import BaseSection
from lorakit.recipe.sections.check import CheckSection
from lorakit.recipe.sections.compare import CompareSection
from lorakit.recipe.sections.data import (
    DataSection,
    DataSource,
    OneSource,
    SourceList,
    SourceListOrFraction,
)
from lorakit.recipe.sections.evaluate import EvaluateSection
from lorakit.recipe.sections.grpo import GRPOSection, RewardSection
from lorakit.recipe.sections.output import OutputSection
from lorakit.recipe.sections.recipe import Recipe
from lorakit.recipe.sections.section import DtypeName, Section
from lorakit.recipe.sections.train import TrainSection
from lorakit.recipe.sections.warm_start import WarmStartSection
from lorakit.recipe.sft_config import SFTConfig

__all__ = [
    "BaseSection",
    "CheckSection",
    "CompareSection",
    "DataSection",
    "DataSource",
    "DtypeName",
    "EvaConfig",
    "EvaluateSection",
    "GRPOSection",
    "LoftqConfig",
    "LoraConfig",
    "OneSource",
    "OutputSection",
    "Recipe",
    "RewardSection",
    "SFTConfig",
    "Section",
    "SourceList",
    "SourceListOrFraction",
    "TrainSection",
    "WarmStartSection",
    "dump_recipe",
    "edited",
    "load_recipe",
    "parse_recipe",
    "recipe_schema",
    "rewrite_recipe",
]
