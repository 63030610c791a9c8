"""The optimizer steps of one cycle: which completions each sees, and what it makes of them.

N tokens of the S completions of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.data.examples import Example, MicroBatch
from lorakit.data.pack import collate, collate_shared, pack_groups, packing_of
from lorakit.engine.recompute import Recompute
from lorakit.train.batches import StepBatch, row_keys
from lorakit.train.choices import Choices
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.logprobs import token_logprobs
from lorakit.train.per_completion import Statistics, add_statistics
from lorakit.train.policy_loss import CLIP_SHARES, Counts, PolicyTokens, divisor, policy_loss
from lorakit.train.rollout_corrections import rollout_corrections
from lorakit.train.rollouts import Rollouts
from lorakit.train.step import compute_device


class PolicySteps:
    """The steps of a cycle; a step needs nothing but its position.

    A completion that cannot move the policy is left out of the passes, and counted all the same, in
    divisors and in the shares of what is clipped: one that is truncated, where these are masked, or
    that nothing sets apart in its group, where no KL divergence pulls. Entropy, ratio and mismatch
    are those of completions that pass. Dropout masks are those of the cycle: old and new
    log-probabilities of a completion see the same ones, so that a ratio is that of the weights
    alone.

    Args:
        rollouts: of the cycle, all scored.
        batch_size: completions of a step.
        seed: of the order in which completions are shared out to steps, and of dropout masks.
        choices: micro-batches and their layout.
        pad_id: token id for padding.
        drops: whether the adapter drops values in training: the mismatch of sampler and training is
            told without them, or not at all. Where nothing is dropped and rows are packed, the
            prompt of a group is computed once in a micro-batch; a dropout mask belongs to one
            completion.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        settings: GRPOSettings,
        *,
        batch_size: int,
        seed: int,
        choices: Choices,
        pad_id: int,
        drops: bool,
    ) -> None:
        self._drops = drops
        self._shares_prompts = shares_prompts(packed=choices.packed, drops=drops)
        self._rollouts = rollouts
        self._settings = settings
        self._batch_size = batch_size
        self._steps_per_pass = settings.cycle(batch_size).steps_per_pass
        self._seed = seed
        self._choices = choices
        self._pad_id = pad_id
        # Beside the keys of epochs, which are 32 bits: another stream of the same seed.
        generator = np.random.Generator(np.random.Philox(key=[seed, (1 << 32) + rollouts.cycle]))
        self._order = generator.permutation(rollouts.chosen)
        self._statistics: dict[int, Statistics] = {}
        self._left_out: Statistics = {}

    def batch(self, step: int, position: int) -> StepBatch:
        """One optimizer step.

        Args:
            step: of the run, from 0.
            position: of the step in its cycle.
        """
        return self._batch(step, self._completions(position), self._groups(position))

    def batch_of(self, step: int, group: Sequence[int]) -> StepBatch:
        """One micro-batch as if it were all of a step; see `batch`."""
        return self._batch(step, group, [group])

    def _batch(
        self, step: int, completions: Sequence[int] | np.ndarray, groups: Sequence[Sequence[int]]
    ) -> StepBatch:
        """A step that sees these completions, of which those in groups pass through the model."""
        self._statistics = {}
        micro_batches = [self._laid_out(group) for group in groups]
        counts = self._counts(completions)
        self._left_out = self._never_clipped(completions)
        return StepBatch(
            step=step,
            micro_batches=micro_batches,
            total_weight=divisor(self._settings.loss, counts),
            num_tokens=sum(sum(one.lengths) for one in micro_batches),
            num_trained_tokens=sum(len(one.targets) for one in micro_batches),
            loss_of=lambda model, place, micro_batch: self._loss(
                model, place, micro_batch, groups[place]
            ),
            mask_step=self._rollouts.cycle,
            ids_are=f"completions of cycle {self._rollouts.cycle}",
        )

    def statistics(self) -> Statistics:
        """Of the step that was computed last."""
        total: Statistics = {}
        for found in self._statistics.values():
            add_statistics(total, found)
        add_statistics(total, {n: e.to(total[n]) for n, e in self._left_out.items() if n in total})
        return total

    def _never_clipped(self, chosen: Sequence[int] | np.ndarray) -> Statistics:
        """The shares' other part, of completions without an advantage: they are not passed through
        the model, and nothing of them is clipped."""
        left_out = [i for i in chosen if not self._trains(i)]
        by_sequence = self._settings.loss.level == "sequence"
        count = len(left_out) if by_sequence else sum(self._counted_lengths(left_out))
        entry = torch.tensor([0.0, count], dtype=torch.float64)
        return dict.fromkeys(CLIP_SHARES, entry)

    @torch.no_grad()
    def logprobs(
        self,
        model: PreTrainedModel,
        adapter: Attached,
        recompute: Recompute | None = None,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Log-probabilities of completions under the model as it stands.

        Args:
            recompute: of `training_mode`; None: the model is not in it.
            groups: the completions of each micro-batch; None: all that train.
            stop_if_asked: called before each micro-batch; what it raises ends it.

        Returns:
            float32, one for each token of the cycle, on the host; 0 for completions in no group.
        """
        found = torch.zeros(len(self._rollouts.token_ids))
        device = compute_device(model)
        for group in self._all_groups() if groups is None else groups:
            stop_if_asked()
            micro_batch = self._laid_out(group).to(device)
            if recompute is not None:
                recompute.prepare(micro_batch.input_ids.numel())
            adapter.dropout.rows = row_keys(micro_batch, self._seed, self._rollouts.cycle)
            logprobs, _ = token_logprobs(model, micro_batch, temperature=self._settings.temperature)
            adapter.dropout.rows = None
            found[self._places(group)] = logprobs.cpu()
        return found

    def _loss(
        self, model: PreTrainedModel, place: int, micro_batch: MicroBatch, group: Sequence[int]
    ) -> torch.Tensor:
        device = micro_batch.targets.device
        places, rollouts = self._places(group), self._rollouts

        def at_tokens(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values[places].to(device)

        logprobs, entropies = token_logprobs(
            model, micro_batch, temperature=self._settings.temperature, with_entropies=True
        )
        old_logprobs = at_tokens(rollouts.old_logprobs)
        old_logprobs = logprobs.detach() if old_logprobs is None else old_logprobs
        lengths = rollouts.lengths[list(group)].to(device)
        sampled = at_tokens(rollouts.rollout_logprobs)
        assert sampled is not None
        undropped = at_tokens(rollouts.undropped_logprobs)
        corrections, mismatch = rollout_corrections(
            old_logprobs if undropped is None else undropped,
            sampled,
            lengths,
            mode=self._settings.rollout_importance_sampling_mode,
            clip_max=self._settings.rollout_importance_sampling_clip_max,
            clip_min=self._settings.rollout_importance_sampling_clip_min,
        )
        advantages = torch.from_numpy(self._rollouts.advantages.advantages[list(group)]).float()
        loss, statistics = policy_loss(
            PolicyTokens(
                logprobs,
                lengths,
                advantages.to(device),
                old_logprobs=old_logprobs,
                ref_logprobs=at_tokens(rollouts.ref_logprobs),
                corrections=corrections,
                entropies=entropies,
            ),
            self._settings.loss,
        )
        # By place: where memory ran out, a micro-batch is computed twice.
        is_comparable = undropped is not None or not self._drops
        self._statistics[place] = statistics | (mismatch if is_comparable else {})
        return loss

    def _completions(self, position: int) -> np.ndarray:
        """int64 (batch_size,), those that the step at `position` sees."""
        part = position % self._steps_per_pass
        return self._order[part * self._batch_size :][: self._batch_size]

    def _all_groups(self) -> Iterator[list[int]]:
        """Those of every step of a pass."""
        for position in range(self._steps_per_pass):
            yield from self._groups(position)

    def _groups(self, position: int) -> list[list[int]]:
        """The completions of each micro-batch."""
        chosen = [int(i) for i in self._completions(position) if self._trains(i)]
        lengths = [len(self._rollouts.question(i).prompt_ids) + self._length(i) for i in chosen]
        budget = self._choices.micro_batch_tokens
        if self._shares_prompts:
            places = [self._rollouts.place(i) for i in chosen]
            own = [self._length(i) for i in chosen]
            prompts = [whole - part for whole, part in zip(lengths, own, strict=True)]
            packed = pack_groups(prompts, own, places, budget)
        else:
            packed = packing_of(self._choices.packed)(lengths, budget)
        return [[chosen[i] for i in group] for group in packed]

    def _laid_out(self, group: Sequence[int]) -> MicroBatch:
        examples, prompt_lengths = [], []
        for i in group:
            prompt = np.array(self._rollouts.question(i).prompt_ids, np.int32)
            prompt_lengths.append(len(prompt))
            ids = self._rollouts.token_ids[self._rollouts.span(i)].numpy()
            weights = np.concatenate([np.zeros(len(prompt)), np.ones(len(ids))])
            examples.append(Example(np.concatenate([prompt, ids]), weights.astype(np.float32)))
        if self._shares_prompts:
            return collate_shared(examples, group, prompt_lengths)
        return collate(examples, group, packed=self._choices.packed, pad_id=self._pad_id)

    def _places(self, group: Sequence[int]) -> torch.Tensor:
        """int64 (N,), where the tokens of a micro-batch are among those of the cycle."""
        spans = [self._rollouts.span(i) for i in group]
        return torch.cat([torch.arange(span.start, span.stop) for span in spans])

    def _trains(self, completion: int) -> bool:
        pulled = self._rollouts.advantages.varies[completion] or self._settings.loss.beta != 0
        return self._counts_as_tokens(completion) and bool(pulled)

    def _counts_as_tokens(self, completion: int) -> bool:
        masks = self._settings.mask_truncated_completions
        return not (masks and bool(self._rollouts.truncated[completion]))

    def _counts(self, chosen: Sequence[int] | np.ndarray) -> Counts:
        return Counts(
            completions=len(chosen),
            tokens=sum(self._counted_lengths(chosen)),
            tokens_generated=sum(self._counted_lengths(self._order)),
            steps_of_cycle=self._steps_per_pass,
        )

    def _counted_lengths(self, chosen: Sequence[int] | np.ndarray) -> Iterator[int]:
        return (self._length(i) for i in chosen if self._counts_as_tokens(i))

    def _length(self, completion: int) -> int:
        return int(self._rollouts.lengths[completion])


def shares_prompts(*, packed: bool, drops: bool) -> bool:
    """Whether the prompt of a group is computed once in a micro-batch; see `PolicySteps`."""
    return packed and not drops
