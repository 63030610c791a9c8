"""Which questions each cycle asks: a pure function of the cycle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from lorakit.data.examples import ExampleSet
from lorakit.data.named_sets import context_of
from lorakit.data.pack import epoch_order
from lorakit.data.questions import Question, question
from lorakit.errors import DataError
from lorakit.train.settings import LoopSettings


def count_cycles(epochs: float, questions: int, prompts_per_cycle: int) -> int:
    """Generations of a run, the last one whole.

    Args:
        questions: that an epoch asks.
    """
    return math.ceil(epochs * questions / prompts_per_cycle)


class QuestionStream:
    """Epoch after epoch of questions, each in an order of its own, cut into cycles.

    A cycle may begin in one epoch and end in the next, so none is short.

    Args:
        examples: every one with a prompt.
        repeats: float64 (number of examples,), how often each is asked per epoch; None: once.
        stop_ids: tokens that end a reference.
        seed: of the order.
        prompts_per_cycle: how many a cycle asks, without further ones.

    Raises:
        DataError: an example without a prompt, or repeats that leave an epoch empty.
    """

    def __init__(
        self,
        examples: ExampleSet,
        repeats: np.ndarray | None,
        stop_ids: Sequence[int],
        *,
        seed: int,
        prompts_per_cycle: int,
    ) -> None:
        self._examples = examples
        self._repeats = repeats
        self._stop_ids = stop_ids
        self._seed = seed
        self.prompts_per_cycle = prompts_per_cycle
        self._epoch, self._order = 0, self._order_of(0)
        self._per_epoch = len(self._order)
        self._prompt_lengths = [self._prompt_length(index) for index in range(len(examples))]

    @property
    def cycles_per_epoch(self) -> float:
        """With a fraction where the last one of an epoch asks questions of the next."""
        return self._per_epoch / self.prompts_per_cycle

    @property
    def prompt_lengths(self) -> np.ndarray:
        """int64 (number of examples,), tokens of each question."""
        return np.array(self._prompt_lengths, np.int64)

    def questions(self, cycle: int) -> list[Question]:
        """Those of a cycle, in order."""
        return [self.at(index) for index in self._indices(cycle)]

    def further(self, cycle: int, start: int, count: int) -> list[Question]:
        """Questions to ask in a cycle behind its own: others in an order of the cycle, and, where
        these are used up, all of them again.

        Args:
            start: of the cycle's own and the further ones, how many were asked.
        """
        own = self._indices(cycle)
        # Beside the keys of epochs, which are 32 bits: another stream of the same seed.
        order = self._order_of((2 << 32) + cycle)
        order = np.concatenate([order[~np.isin(order, own)], order[np.isin(order, own)]])
        first = start - self.prompts_per_cycle
        return [self.at(int(order[i % len(order)])) for i in range(first, first + count)]

    def count_steps(self, settings: LoopSettings, steps_per_cycle: int) -> int:
        """Optimizer steps of the whole run: `max_steps`, or the epochs' cycles rounded up."""
        if settings.max_steps is not None:
            return settings.max_steps
        cycles = count_cycles(settings.num_train_epochs, self._per_epoch, self.prompts_per_cycle)
        return cycles * steps_per_cycle

    def longest_prompt(self, model: PreTrainedModel, max_completion_length: int) -> int:
        """Tokens of the longest prompt.

        Raises:
            DataError: it leaves no room for a completion in the model's context.
        """
        longest = max(self._prompt_lengths)
        context = context_of(model.config)
        if context is not None and longest + max_completion_length > context:
            where = self._prompt_lengths.index(longest)
            raise DataError(
                f"the prompt of example {where} has {longest} tokens, which with "
                f"max_completion_length {max_completion_length} are more than the model's context "
                f"of {context}. Lower max_completion_length, or leave such rows out."
            )
        return longest

    def at(self, index: int) -> Question:
        """The question that an example is."""
        found = question(self._examples[index], index, self._stop_ids)
        assert found is not None
        return found

    def _indices(self, cycle: int) -> list[int]:
        """Of the cycle's own questions."""
        start = cycle * self.prompts_per_cycle
        found = []
        for place in range(start, start + self.prompts_per_cycle):
            epoch, offset = divmod(place, self._per_epoch)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, self._order_of(epoch)
            found.append(int(self._order[offset]))
        return found

    def _order_of(self, epoch: int) -> np.ndarray:
        return epoch_order(len(self._examples), self._repeats, self._seed, epoch)

    def _prompt_length(self, index: int) -> int:
        found = question(self._examples[index], index, self._stop_ids)
        if found is None:
            raise DataError(
                f"example {index} has no prompt before its answer, so nothing can be asked; "
                "possible: rows with a question and an answer, no plain text. Leave it out."
            )
        return len(found.prompt_ids)
