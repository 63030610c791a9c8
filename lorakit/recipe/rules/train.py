"""What `train` may not say, and the options of `train_sft`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorakit.recipe.finding_names import watcher_names
from lorakit.recipe.optimizer_names import OPTIMS_ELSEWHERE, OPTIMS_NOT_BUILT
from lorakit.recipe.rules.check import silence_rules
from lorakit.recipe.rules.data import format_rules
from lorakit.recipe.rules.fault import Fault, is_given, names_in, no_effect, not_built, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe
    from lorakit.recipe.sections.stage import StageSection
    from lorakit.recipe.sections.train import TrainSection
    from lorakit.recipe.sft_config import SFTConfig

SFT_METHODS = ("sft",)  # of `train_sft`


def train_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the train section."""
    train = recipe.train
    yield from _loop(("train",), train)
    if recipe.data.validation is None and train.method == "sft":
        for name in ("eval_steps", "early_stopping_patience"):
            if getattr(train, name) is not None:
                yield no_effect(
                    ("train", name), "data.validation is not set", "set it to a set or a fraction"
                )


def sft_rules(config: SFTConfig) -> Iterator[Fault]:
    """The rules of the options of `train_sft`; whether rows validate is seen when it is called."""
    if config.method not in SFT_METHODS:
        place, recipes = ("method",), "a recipe's train.method, or lorakit.train.grpo.train_grpo"
        yield Fault(
            place, f"{config.method!r} is not what train_sft does; possible: sft, {recipes}"
        )
    yield from _loop((), config)
    yield from format_rules(("format",), config.format)
    yield from silence_rules(("silence",), config.silence, watcher_names())


def _loop(place: tuple[str | int, ...], train: TrainSection) -> Iterator[Fault]:
    """The rules of the training options that need no other section."""
    section = "".join(f"{part}." for part in place)
    yield from length_rules(place, train)
    yield from _optim(place, train)
    if train.early_stopping_patience is None and is_given(train, "early_stopping_threshold"):
        yield no_effect(
            (*place, "early_stopping_threshold"),
            f"{section}early_stopping_patience is not set",
            "set it",
        )


def length_rules(place: tuple[str | int, ...], train: StageSection) -> Iterator[Fault]:
    """The rules of how long is trained."""
    if train.max_steps is not None and is_given(train, "num_train_epochs"):
        said = ".".join(map(str, (*place, "max_steps")))
        yield no_effect((*place, "num_train_epochs"), f"{said} says how long", "remove max_steps")


def _optim(place: tuple[str | int, ...], train: TrainSection) -> Iterator[Fault]:
    section = "".join(f"{part}." for part in place)
    optims = names_in("optimizers/forms")
    if train.optim in OPTIMS_ELSEWHERE:
        here = OPTIMS_ELSEWHERE[train.optim]
        yield Fault((*place, "optim"), f"{train.optim!r} is not built; here it is {here}")
    elif train.optim in OPTIMS_NOT_BUILT:
        yield not_built((*place, "optim"), train.optim, optims)
    elif train.optim not in optims:
        yield unknown((*place, "optim"), train.optim, optims)
    elif train.optim_memory is not None and not train.optim.startswith("paged_"):
        yield no_effect(
            (*place, "optim_memory"),
            f"{section}optim {train.optim} keeps its whole state on the device",
            f"set {section}optim to paged_adamw_32bit or paged_adamw_8bit",
        )
    if train.loraplus_lr_embedding is not None and train.loraplus_lr_ratio is None:
        yield no_effect(
            (*place, "loraplus_lr_embedding"), f"{section}loraplus_lr_ratio is not set", "set it"
        )
