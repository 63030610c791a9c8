"""What rules may look at; what is dear to know is computed once, when the first rule asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lorakit.data.named_sets import NamedSets
from lorakit.data.prepare import Prepared
from lorakit.data.variants import source_and_variant
from lorakit.lint.hardware import Hardware
from lorakit.lint.languages import Languages, languages_of
from lorakit.lint.near import Repeats, repeats_of
from lorakit.lint.row_texts import Sample, sample_of
from lorakit.plan.blueprint import Workbench
from lorakit.plan.policy import run_length
from lorakit.plan.result import Plan
from lorakit.plan.steps import RunLength
from lorakit.recipe import Recipe

# Rows of a held-out set that are read; more would not change what is said of it.
MAX_HELD_OUT_ROWS = 5_000
MAX_LANGUAGE_ROWS = 200  # of them, whose language is told: it takes a millisecond a text


@dataclass(frozen=True)
class Facts:
    """A recipe, its data and its base.

    Attributes:
        recipe: as read.
        sets: every set, tokenized.
        tokenizer, config: the base's.
        hardware: what would train.
        make_plan: plans the run; None: nobody does.
        bench: of that plan, for whoever plans changes.
    """

    recipe: Recipe
    sets: NamedSets
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    hardware: Hardware
    make_plan: Callable[[], Plan] | None = None
    bench: Workbench = field(default_factory=Workbench)

    @cached_property
    def plan(self) -> Plan | None:
        """What the run takes."""
        return None if self.make_plan is None else self.make_plan()

    @cached_property
    def train(self) -> Sample:
        """Rows of the training set."""
        return sample_of("train", self.sets.train)

    @cached_property
    def warm_start(self) -> Sample | None:
        """Rows that a policy's warm start trains on; None: it has none, or this is one."""
        sets = self.sets.warm_start
        if sets is None:
            return None
        return sample_of("warm_start", sets.train, max_rows=MAX_HELD_OUT_ROWS)

    @cached_property
    def held_out(self) -> Mapping[str, Sample]:
        """Rows of the other sets, each told once: in_domain may be the validation set."""
        return {
            name: sample_of(name, prepared, max_rows=MAX_HELD_OUT_ROWS)
            for name, prepared in self.held_out_sets.items()
        }

    @cached_property
    def held_out_sets(self) -> Mapping[str, Prepared]:
        """{set: rows} of all sets but train; a set of two names is there once, under the first."""
        told: list[Prepared] = [self.sets.train]
        different = {}
        for name, prepared in self.sets.by_name().items():
            if not any(prepared is one for one in told):
                told.append(prepared)
                different[name] = prepared
        return different

    @cached_property
    def num_rows(self) -> float:
        """Training rows an epoch sees: weights count."""
        return float(self.sets.train.repeats.sum())

    @cached_property
    def length(self) -> RunLength:
        """Steps of the whole run, counted as the plan and the loop count them."""
        return run_length(self.recipe, self.sets.train.examples, self.sets.train.repeats)

    @property
    def is_policy(self) -> bool:
        """Whether answers are what completions are held to, and not trained."""
        return self.recipe.train.method == "grpo"

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.length.steps

    @property
    def num_epochs(self) -> float:
        """Epochs of the whole run, also where max_steps says how long it is."""
        train = self.recipe.train
        if train.max_steps is None:
            return train.num_train_epochs
        return train.max_steps / self.length.steps_per_epoch

    @cached_property
    def hidden_size(self) -> int:
        """Width of the base."""
        return int(self.config.get_text_config().hidden_size)

    @cached_property
    def repeats(self) -> Repeats:
        """Rows that say nearly the same, within train and between train and the other sets."""
        return repeats_of(self.train, self.held_out)

    @cached_property
    def languages(self) -> Languages:
        """The languages of training prompts and answers."""
        return languages_of(self.train)

    @cached_property
    def languages_held_out(self) -> Mapping[str, Languages]:
        """{set: its languages} of the sets that measure the task, by some of their rows.

        Retention measures what the base could before, and a variant has the answers of its source.
        """
        measuring = {
            name: sample
            for name, sample in self.held_out.items()
            if name != "retention" and source_and_variant(name) is None
        }
        return {name: languages_of(sample, MAX_LANGUAGE_ROWS) for name, sample in measuring.items()}

    @cached_property
    def control_ids(self) -> np.ndarray:
        """Ids of all special and added tokens, int64."""
        added = self.tokenizer.added_tokens_decoder
        return np.array(sorted({*self.tokenizer.all_special_ids, *added}), dtype=np.int64)
