"""How many completions a generation makes, and how many optimizer steps learn from them.

The arithmetic is that of TRL 1.16's GRPOConfig, which counts in micro-batches, and lorakit chooses
those itself: `batch_size` is what TRL has as `per_device_train_batch_size` * processes *
`gradient_accumulation_steps`. So the last of these must be told where `steps_per_generation` is:

    completions = generation_batch_size
                = steps_per_generation * batch_size / gradient_accumulation_steps
                = batch_size                                where neither is given, as in TRL

One thing that TRL does is refused: an optimizer step that sees a part of one generation, or several
of them. lorakit generates between two optimizer steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lorakit.errors import InputError


class CycleOptions(Protocol):
    """What of the section `grpo`, or of `GRPOSettings`, says how long a cycle is."""

    @property
    def num_generations(self) -> int: ...
    @property
    def num_iterations(self) -> int: ...
    @property
    def generation_batch_size(self) -> int | None: ...
    @property
    def steps_per_generation(self) -> int | None: ...
    @property
    def gradient_accumulation_steps(self) -> int | None: ...


@dataclass(frozen=True)
class CycleSizes:
    """From one generation to the next.

    Attributes:
        completions: that are generated.
        prompts: that they answer, each with a group of them.
        steps_per_pass: optimizer steps that they are shared out to.
        num_iterations: passes over them.
    """

    completions: int
    prompts: int
    steps_per_pass: int
    num_iterations: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        return self.steps_per_pass * self.num_iterations


def cycle_sizes(options: CycleOptions, batch_size: int) -> CycleSizes:
    """The sizes of every cycle of a run.

    Args:
        batch_size: completions of an optimizer step.

    Raises:
        InputError: naming all of `cycle_faults`.
    """
    faults = cycle_faults(options, batch_size)
    if faults:
        told = "; ".join(f"{name} {message}" for name, message in faults.items())
        raise InputError(f"{told}. Change these values.")
    completions = _completions(options, batch_size)
    return CycleSizes(
        completions,
        completions // options.num_generations,
        completions // batch_size,
        options.num_iterations,
    )


def cycle_faults(options: CycleOptions, batch_size: int) -> dict[str, str]:
    """{option: why a cycle cannot have these sizes}; `batch_size` is of the section `train`."""
    steps, parts = options.steps_per_generation, options.gradient_accumulation_steps
    if steps is not None and options.generation_batch_size is not None:
        return {
            "steps_per_generation": "is given beside generation_batch_size, and both say how many "
            "completions a generation has; possible: one of the two"
        }
    if steps is None and parts is not None:
        return {
            "gradient_accumulation_steps": "cannot take effect because steps_per_generation, whose "
            "unit it is, is not given; remove it: train.batch_size counts the completions of a "
            "whole optimizer step"
        }
    if steps is not None and parts is None:
        return {
            "steps_per_generation": f"{steps} counts micro-batches, as in TRL, and lorakit chooses "
            "those itself; possible: gradient_accumulation_steps beside it, how many TRL has in an "
            "optimizer step (1: it counts optimizer steps), or in its place generation_batch_size, "
            "in completions"
        }
    if parts is not None and batch_size % parts:
        return {
            "gradient_accumulation_steps": f"{parts} does not divide train.batch_size {batch_size} "
            "into micro-batches of one size; possible: a divisor of it"
        }
    return _faults_of(options, batch_size)


def _faults_of(options: CycleOptions, batch_size: int) -> dict[str, str]:
    """Those of a number of completions that is known."""
    completions, size = _completions(options, batch_size), options.num_generations
    name, told = "batch_size", f"{batch_size} completions"
    if options.generation_batch_size is not None:
        name, told = "generation_batch_size", f"{completions} completions"
    elif options.steps_per_generation is not None:
        name = "steps_per_generation"
        told = f"{options.steps_per_generation} are {completions} completions"
    if completions % batch_size:
        message = (
            f"{told}, and an optimizer step sees train.batch_size {batch_size}: some steps would "
            "see a part of a generation or several (TRL generates in the middle of a step); "
            "possible: a multiple of train.batch_size"
        )
        return {name: message}
    if completions % size:
        message = (
            f"{told}, which are no whole groups of num_generations {size}; possible: a multiple "
            "of it"
        )
        return {name: message}
    return {}


def _completions(options: CycleOptions, batch_size: int) -> int:
    if options.generation_batch_size is not None:
        return options.generation_batch_size
    if options.steps_per_generation is None:
        return batch_size
    return options.steps_per_generation * batch_size // (options.gradient_accumulation_steps or 1)
