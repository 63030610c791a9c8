"""Must-show 1: losses, gradients, advantages and statistics are those of TRL's GRPOTrainer.

TRL runs a PEFT model on padded rows and its own code from rewards to loss; lorakit its own adapter,
packed rows and own op, from the same weights, completions and rewards. A trainer gets its
completions through TRL's `rollout_func`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lorakit.adapters.attach import adapter_disabled, attached
from lorakit.data.examples import Example
from lorakit.data.pack import collate
from lorakit.train.advantages import advantages
from lorakit.train.logprobs import token_logprobs
from lorakit.train.per_completion import Statistics, add_statistics
from lorakit.train.policy_loss import (
    CLIP_SHARES,
    Counts,
    PolicyLossSettings,
    PolicyTokens,
    divisor,
    policy_loss,
)
from lorakit.train.rollout_corrections import rollout_corrections
from tests.train import runs

trl = pytest.importorskip("trl")
peft = pytest.importorskip("peft")
datasets = pytest.importorskip("datasets")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*activation_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'.*:UserWarning"),
]

CLOSE = 1e-5  # the contract
EOS = 4
PROMPTS = [[5, 17, 33], [8, 9, 40, 41, 77]]
GROUP_SIZE = 4
LENGTHS = [3, 6, 1, 4, 2, 6, 5, 3]
TRUNCATED = [1, 5]  # no end token at the end
REWARDS = [
    [1.0, 0.3],
    [0.0, 0.1],
    [0.0, 0.9],
    [1.0, 0.2],
    [0.5, 0.0],
    [0.7, 0.6],
    [0.1, 0.1],
    [0, 1],
]


@dataclass(frozen=True)
class Completions:
    """What both sides are given."""

    prompts: list[list[int]]
    ids: list[list[int]]
    rewards: np.ndarray  # (E, K), NaN where a function returned None
    rollout_noise: list[list[float]]


def completions() -> Completions:
    generator = np.random.default_rng(0)
    ids = [generator.integers(5, 390, length).tolist() for length in LENGTHS]
    for index, one in enumerate(ids):
        one[-1] = 200 if index in TRUNCATED else EOS
    noise = [generator.normal(0, 0.5, length).tolist() for length in LENGTHS]
    return Completions(
        [PROMPTS[i // GROUP_SIZE] for i in range(len(ids))], ids, np.array(REWARDS, float), noise
    )


class Peer(trl.GRPOTrainer):
    """Looks like a trainer with vLLM once its completions are there, if asked to."""

    corrects = False

    def _generate(self, prompts):
        self.use_vllm = False
        try:
            return super()._generate(prompts)
        finally:
            self.use_vllm = self.corrects


class Ours:
    """lorakit's side: a model, and what it makes of completions."""

    def __init__(self, model: PreTrainedModel, given: Completions, temperature: float) -> None:
        self.model = model
        self.given = given
        self.temperature = temperature

    def batch(self, chosen: Sequence[int]):
        examples = []
        for i in chosen:
            prompt, ids = self.given.prompts[i], self.given.ids[i]
            weights = np.array([0] * len(prompt) + [1] * len(ids), np.float32)
            examples.append(Example(np.array(prompt + ids, np.int32), weights))
        return collate(examples, chosen, packed=True, pad_id=0)

    def logprobs(self, chosen: Sequence[int], *, with_entropies: bool = False):
        return token_logprobs(
            self.model,
            self.batch(chosen),
            temperature=self.temperature,
            with_entropies=with_entropies,
        )


@pytest.fixture(scope="module")
def given() -> Completions:
    return completions()


@pytest.fixture(scope="module")
def our_model(tiny_folder: Path) -> PreTrainedModel:
    return runs.adapted_model(tiny_folder, lora_alpha=8)


def peer_of(
    folder: Path, output: Path, given: Completions, init: dict[str, torch.Tensor], **options: Any
):
    """A GRPOTrainer whose rollouts and rewards are those given, with our adapter's values."""
    corrects = options.pop("corrects", False)
    noisy = options.pop("sampled", [[0.0] * n for n in map(len, given.ids)])

    def rollout(prompts, trainer):
        return {
            "prompt_ids": given.prompts,
            "completion_ids": given.ids,
            "logprobs": noisy,
            "number": list(range(len(prompts))),
        }

    def reward(index: int):
        def of(prompts, completions, number, **_):
            values = given.rewards[number, index]
            return [None if np.isnan(value) else float(value) for value in values]

        of.__name__ = f"reward_{index}"
        return of

    values = {
        "per_device_train_batch_size": len(given.ids),
        "num_generations": GROUP_SIZE,
        "max_completion_length": 6,
        "num_iterations": 2,  # so that the old log-probabilities are computed and kept
        "gradient_checkpointing": False,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
    } | options
    trainer = Peer(
        AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=[reward(k) for k in range(given.rewards.shape[1])],
        args=trl.GRPOConfig(output_dir=str(output), **values),
        train_dataset=datasets.Dataset.from_list([{"prompt": "p"}] * len(given.ids)),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
        rollout_func=rollout,
    )
    trainer.corrects = corrects
    for name, value in init.items():
        parameter(trainer.model, name).data.copy_(value)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer


def parameter(model: Any, name: str) -> torch.nn.Parameter:
    module, suffix = name.split(".adapter.")
    return model.get_parameter(f"base_model.model.{module}.{suffix}.default.weight")


def scored(trainer: Any, count: int) -> dict[str, torch.Tensor]:
    return trainer._generate_and_score_completions([{"prompt": "p"} for _ in range(count)])


def flat(padded: torch.Tensor, chosen: Sequence[int] = range(len(LENGTHS))) -> torch.Tensor:
    """(E, T) as TRL pads it, one completion after the other."""
    return torch.cat([padded[i, : LENGTHS[i]] for i in chosen])


def assert_gradients_equal(trainer: Any, model: PreTrainedModel, divided_by: float) -> None:
    largest = 0.0
    for name, ours in attached(model).parameters().items():
        theirs = parameter(trainer.model, name).grad
        scale = theirs.norm().item()
        largest = max(largest, scale)
        assert (ours.grad / divided_by - theirs).norm().item() <= CLOSE * max(scale, 1e-3), name
    assert largest > 1e-3  # there was something to compare


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (of both, TRL's name of the loss where it has another)
    "grpo": ({"loss_type": "grpo"}, {}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {}),
    "bnpo": ({"loss_type": "bnpo"}, {}),
    "dapo": ({"loss_type": "dapo"}, {}),
    "gspo": (
        {"loss_type": "gspo", "epsilon": 0.05, "epsilon_high": 0.06},
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    ),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.3}, {}),
    "clip higher, two-sided": ({"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.5}, {}),
    "kl": ({"loss_type": "grpo", "beta": 0.3}, {}),
    "kl without correction": ({"beta": 0.3, "use_bias_correction_kl": False}, {}),
    "kl of sequences": (
        {"loss_type": "dapo", "beta": 0.3, "importance_sampling_level": "sequence"},
        {},
    ),
    "cispo with kl": ({"loss_type": "cispo", "epsilon_high": 5.0, "beta": 0.1}, {}),
}


@pytest.mark.parametrize(
    ("case", "masks_truncated"),
    [
        *((case, False) for case in CASES),
        *((case, True) for case in ("grpo", "gspo", "dapo", "kl")),
    ],
)
def test_loss_gradients_and_statistics(
    case: str,
    masks_truncated: bool,
    tiny_folder: Path,
    tmp_path: Path,
    given: Completions,
    our_model: PreTrainedModel,
) -> None:
    shared, named = CASES[case]
    temperature = 0.8
    trainer = peer_of(
        tiny_folder,
        tmp_path,
        given,
        runs.values(our_model),
        temperature=temperature,
        mask_truncated_completions=masks_truncated,
        reward_weights=[1.0, 0.5],
        **(shared | named),
    )
    inputs = scored(trainer, len(LENGTHS))
    generator = torch.Generator().manual_seed(3)
    drift = 0.4 * torch.randn(inputs["old_per_token_logps"].shape, generator=generator)
    old_logprobs = inputs["old_per_token_logps"] + drift  # as if the policy had moved since
    inputs["old_per_token_logps"] = old_logprobs
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()

    settings = PolicyLossSettings(max_completion_length=6, **shared)
    ours = Ours(our_model, given, temperature)
    group = np.arange(len(LENGTHS)) // GROUP_SIZE
    advantage = advantages(given.rewards, group, weights=[1.0, 0.5]).advantages
    assert np.abs(advantage - inputs["advantages"].numpy()).max() < CLOSE
    counts = counts_of(range(len(LENGTHS)), masks_truncated)
    left_out = TRUNCATED if masks_truncated else []
    for cut in ([range(8)], [[0, 1, 2], [5, 3], [4, 7, 6]]):
        passed = [[i for i in chosen if i not in left_out] for chosen in cut]
        total, statistics = our_gradients(ours, settings, passed, advantage, old_logprobs)
        if settings.level == "sequence":
            # As `PolicySteps` counts them: not clipped, and among all completions.
            never = torch.tensor([0.0, len(left_out)], dtype=torch.float64)
            add_statistics(statistics, {n: never for n in CLIP_SHARES if n in statistics})
        divided = divisor(settings, counts)
        assert abs(total / divided - loss.item()) < CLOSE
        assert_gradients_equal(trainer, our_model, divided)
        assert_statistics_equal(trainer, statistics, settings)


def our_gradients(
    ours: Ours,
    settings: PolicyLossSettings,
    cut: Sequence[Sequence[int]],
    advantage: np.ndarray,
    old_logprobs: torch.Tensor,
    *,
    corrections: torch.Tensor | None = None,
) -> tuple[float, Statistics]:
    """Gradients of a step that is cut so, undivided: its loss and statistics."""
    for trained in attached(ours.model).parameters().values():
        trained.grad = None
    total, statistics = 0.0, {}
    for chosen in cut:
        lengths = torch.tensor([LENGTHS[i] for i in chosen])
        ref_logprobs = None
        if settings.beta:
            with adapter_disabled(ours.model), torch.no_grad():
                ref_logprobs = ours.logprobs(chosen)[0]
        logprobs, entropies = ours.logprobs(chosen, with_entropies=True)
        loss, found = policy_loss(
            PolicyTokens(
                logprobs,
                lengths,
                torch.tensor(advantage[list(chosen)]).float(),
                old_logprobs=flat(old_logprobs, chosen),
                ref_logprobs=ref_logprobs,
                corrections=None if corrections is None else flat(corrections, chosen),
                entropies=entropies,
            ),
            settings,
        )
        loss.backward()
        total += loss.item()
        add_statistics(statistics, found)
    return total, statistics


def counts_of(chosen: Sequence[int], masks_truncated: bool, steps_of_cycle: int = 1) -> Counts:
    def counted(numbers: Sequence[int]) -> int:
        return sum(LENGTHS[i] for i in numbers if not (masks_truncated and i in TRUNCATED))

    return Counts(len(chosen), counted(chosen), counted(range(len(LENGTHS))), steps_of_cycle)


def assert_statistics_equal(trainer: Any, ours: Statistics, settings: PolicyLossSettings) -> None:
    theirs = trainer._metrics["train"]
    names = {"entropy": "entropy"} | ({"kl": "kl"} if settings.beta else {})
    if settings.loss_type == "cispo":
        names["cispo_clip_ratio"] = "cispo_clip_ratio"
    else:
        names |= {f"clip_ratio/{side}": f"clip_ratio/{side}_mean" for side in ("low", "high")}
        names["clip_ratio/region"] = "clip_ratio/region_mean"
        assert ours["clip_ratio/region"][0] > 0  # some ratio was clipped, or nothing is shown
    for name, their_name in names.items():
        mean = (ours[name][0] / ours[name][1]).item()
        assert mean == pytest.approx(theirs[their_name][-1], abs=CLOSE), name


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_a_step_of_several_micro_batches_in_a_longer_cycle(
    loss_type: str,
    tiny_folder: Path,
    tmp_path: Path,
    given: Completions,
    our_model: PreTrainedModel,
) -> None:
    """TRL: 4 micro-batches of 2 completions are generated, and a step takes 2 of them."""
    epsilon_high = 5.0 if loss_type == "cispo" else None
    trainer = peer_of(
        tiny_folder,
        tmp_path,
        given,
        runs.values(our_model),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        loss_type=loss_type,
        epsilon_high=epsilon_high,
    )
    inputs = scored(trainer, len(LENGTHS))
    old_logprobs = inputs["old_per_token_logps"] - 0.1
    inputs["old_per_token_logps"] = old_logprobs
    losses = []
    for start in (4, 6):
        part = {k: v[start : start + 2] if v.ndim else v for k, v in inputs.items()}
        losses.append(trainer._compute_loss(trainer.model, part))
        losses[-1].backward()

    settings = PolicyLossSettings(
        loss_type=loss_type, epsilon_high=epsilon_high, max_completion_length=6
    )
    divided = divisor(settings, counts_of(range(4, 8), False, steps_of_cycle=2))
    group = np.arange(len(LENGTHS)) // GROUP_SIZE
    advantage = advantages(given.rewards, group).advantages
    ours = Ours(our_model, given, 1.0)
    total, _ = our_gradients(ours, settings, [[6], [4, 7, 5]], advantage, old_logprobs)
    assert total / divided == pytest.approx(sum(losses).item(), abs=CLOSE)
    assert_gradients_equal(trainer, our_model, divided)


@pytest.mark.parametrize(
    "mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_corrections_of_rollouts(
    mode: str, tiny_folder: Path, tmp_path: Path, given: Completions, our_model: PreTrainedModel
) -> None:
    ours = Ours(our_model, given, 1.0)
    with torch.no_grad():
        plain = ours.logprobs(range(8))[0]
    noise = torch.tensor([x for one in given.rollout_noise for x in one])
    noise[4] = torch.nan  # a token whose log-probability nobody knows
    rollout = plain + noise
    trainer = peer_of(
        tiny_folder,
        tmp_path,
        given,
        runs.values(our_model),
        corrects=True,
        sampled=[part.tolist() for part in rollout.split(LENGTHS)],
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=1.6,
        vllm_importance_sampling_clip_min=0.4,
        loss_type="dapo",
    )
    inputs = scored(trainer, len(LENGTHS))
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()

    lengths = torch.tensor(LENGTHS)
    corrections, statistics = rollout_corrections(
        plain, rollout, lengths, mode=mode, clip_max=1.6, clip_min=0.4
    )
    theirs = inputs["importance_sampling_ratio"].expand(-1, max(LENGTHS))
    assert (corrections - flat(theirs)).abs().max() < CLOSE
    assert len(set(corrections.tolist())) > 3  # neither all cut off nor all masked
    for name in ("sampling_logp_difference", "importance_sampling_ratio"):
        mean = (statistics[name][0] / statistics[name][1]).item()
        metric = trainer._metrics["train"][f"sampling/{name}/mean"][-1]
        assert mean == pytest.approx(metric, abs=CLOSE)
    settings = PolicyLossSettings(max_completion_length=6)
    advantage = advantages(given.rewards, np.arange(8) // GROUP_SIZE).advantages
    padded = torch.nn.utils.rnn.pad_sequence(corrections.split(LENGTHS), batch_first=True)
    total, _ = our_gradients(
        ours, settings, [range(8)], advantage, inputs["old_per_token_logps"], corrections=padded
    )
    divided = divisor(settings, counts_of(range(8), False))
    assert total / divided == pytest.approx(loss.item(), abs=CLOSE)
    assert_gradients_equal(trainer, our_model, divided)


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_advantages_of_ragged_groups(
    aggregation: str,
    scale_rewards: str,
    tiny_folder: Path,
    tmp_path: Path,
    given: Completions,
    our_model: PreTrainedModel,
) -> None:
    """A lost member is one that TRL could not score; ours is given the others alone."""
    rewards = given.rewards.copy()
    lost = [1, 4, 5, 6]  # of the second group one member is left
    rewards[lost] = np.nan
    rewards[2, 1] = np.nan  # and one has a reward of one function only
    trainer = peer_of(
        tiny_folder,
        tmp_path,
        Completions(given.prompts, given.ids, rewards, given.rollout_noise),
        runs.values(our_model),
        reward_weights=[1.0, 0.5],
        scale_rewards=scale_rewards,
        multi_objective_aggregation=aggregation,
    )
    theirs = scored(trainer, len(LENGTHS))["advantages"].numpy()
    options = {"weights": [1.0, 0.5], "scale_rewards": scale_rewards, "aggregation": aggregation}
    group = np.arange(len(LENGTHS)) // GROUP_SIZE
    whole = advantages(rewards, group, **options)
    assert np.abs(whole.advantages - theirs).max() < CLOSE
    left = [i for i in range(len(LENGTHS)) if i not in lost]
    ragged = advantages(rewards[left], group[left], **options)
    assert np.abs(ragged.advantages - theirs[left]).max() < CLOSE
    assert np.abs(theirs).max() > 0.1
    assert trainer._metrics["train"]["reward"][-1] == pytest.approx(np.nanmean(whole.rewards))
