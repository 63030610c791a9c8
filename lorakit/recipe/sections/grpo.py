"""`grpo`: completions, their rewards and what is learned of them, with the names of TRL's
GRPOConfig."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from lorakit.recipe.reward_names import function_name
from lorakit.recipe.sections.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section

# The default of TRL 1.16, where `use_vllm` is on.
MODE_OF_VLLM = "sequence_mask"


class RewardSection(Section):
    """One of the rewards."""

    name: str = Field(
        description="A scorer by file name in tasks, soft_overlong_punishment, or a function of "
        "your own: `package.module:function` or `path.py:function`. With scorer a name of your "
        "choice, for metrics."
    )
    scorer: str | None = Field(
        None, description="Which of these, where the name is your own: two rewards may have one."
    )
    weight: Annotated[float, Field(allow_inf_nan=False)] = Field(
        1.0, description="Of its scores in the sum; a negative one punishes."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Of regex {regex: PATTERN}, of json_schema {json_schema: FILE}, of "
        "soft_overlong_punishment {soft_punish_cache: TOKENS, max_completion_len: TOKENS}; of your "
        "own function further arguments by name.",
    )


@dataclass(frozen=True)
class NamedReward:
    """A reward, its defaults filled in.

    Attributes:
        name: in metrics.
        scorer: a file of tasks, a reward of `reward_names`, or a function of the user's own.
        weight, options: see `RewardSection`.
    """

    name: str
    scorer: str
    weight: float
    options: dict[str, Any]


def _shape(value: Any) -> str:
    """Which alternative is meant: errors then speak of that one only."""
    return "reward" if isinstance(value, dict | RewardSection) else "name"


RewardItem = Annotated[
    Annotated[str, Tag("name")] | Annotated[RewardSection, Tag("reward")], Discriminator(_shape)
]


class GRPOSection(Section):
    """How to roll out, reward and learn (`train.method: grpo`)."""

    rewards: list[RewardItem] = Field(
        default_factory=list,
        description="What is learned: the weighted sum of these, names or {name, weight, options}.",
    )
    on_reward_failure: Literal["error", "skip"] = Field(
        "error",
        description="When a function of your own raises, hangs or gives no number: stop, or leave "
        "that reward of that completion out.",
    )
    reward_seconds: PositiveFloat = Field(
        60.0, description="What one call of a function of your own may take."
    )
    num_generations: Annotated[int, Field(ge=2, le=10_000)] = Field(
        8, description="Completions of each prompt, a group."
    )
    max_completion_length: PositiveInt = Field(256, description="Tokens of a completion, at most.")
    num_iterations: PositiveInt = Field(1, description="How often a step sees a completion.")
    generation_batch_size: PositiveInt | None = Field(
        None,
        description="Completions of a generation; null: those of an optimizer step, "
        "train.batch_size.",
    )
    steps_per_generation: PositiveInt | None = Field(
        None,
        description="The same counted in micro-batches, as in TRL, with "
        "gradient_accumulation_steps.",
    )
    gradient_accumulation_steps: PositiveInt | None = Field(
        None,
        description="Micro-batches of an optimizer step in TRL: the unit of steps_per_generation, "
        "and nothing else.",
    )
    temperature: PositiveFloat = Field(1.0, description="Of the completions.")
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: PositiveInt | None = Field(None, description="null: all tokens.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Only tokens at least so many times as probable as the most probable one; "
        "null: all.",
    )
    stop_strings: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="Texts that end a completion, beside end tokens."
    )
    max_batch: PositiveInt | None = Field(
        None,
        description="Completions that are generated at a time; fewer take less memory, and longer; "
        "null: as many as fit, 64 at most.",
    )
    loss_type: Literal["grpo", "dr_grpo", "bnpo", "dapo", "gspo", "cispo"] = "dapo"
    importance_sampling_level: Literal["token", "sequence"] | None = Field(
        None, description="Of the ratio; null: token, of gspo sequence."
    )
    epsilon: NonNegativeFloat = Field(0.2, description="How far a ratio may go below 1.")
    epsilon_high: NonNegativeFloat | None = Field(
        None, description="And above; null: as epsilon. Of cispo the largest ratio itself."
    )
    delta: NonNegativeFloat | None = Field(
        None, description="The largest ratio of a token with a negative advantage."
    )
    beta: NonNegativeFloat = Field(0.0, description="Weight of the KL divergence from the base.")
    use_bias_correction_kl: bool = Field(
        True, description="Weigh the divergence by the ratio (arXiv 2512.02556)."
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="Whose standard deviation divides an advantage."
    )
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = (
        "sum_then_normalize"
    )
    max_resample_times: Annotated[int, Field(ge=0, le=100)] = Field(
        0,
        description="How often further questions are asked in the place of groups without variance "
        "(dynamic sampling, arXiv 2503.14476); 0: never.",
    )
    mask_truncated_completions: bool = Field(
        False, description="Completions that did not come to their end teach nothing."
    )
    rollout_importance_sampling_mode: (
        Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] | None
    ) = Field(None, description="Weigh what was sampled in other numerics; null: measure only.")
    rollout_importance_sampling_clip_max: PositiveFloat | None = 3.0
    rollout_importance_sampling_clip_min: NonNegativeFloat | None = None
    use_vllm: bool = Field(
        False, description="Completions come from a vLLM server, which is given the adapter anew."
    )
    vllm_server_base_url: str = Field(
        "http://localhost:8000", description="Where it answers; see docs/grpo.md for its options."
    )
    vllm_server_timeout: NonNegativeFloat = Field(
        240.0, description="Seconds to wait for the server to be up."
    )
    vllm_answer_seconds: PositiveFloat = Field(
        1800.0, description="What the completions of one question may take."
    )
    vllm_api_key_env: str | None = Field(
        None, description="The environment variable that holds its key; the key stands nowhere."
    )
    vllm_importance_sampling_correction: bool = Field(
        True,
        description="With use_vllm, rollout_importance_sampling_mode is sequence_mask unless it is "
        "given; false: the mismatch is measured only.",
    )

    @property
    def importance_sampling_mode(self) -> str | None:
        """How rollouts are weighed: `rollout_importance_sampling_mode`, with its default."""
        mode = self.rollout_importance_sampling_mode
        if mode is None and self.use_vllm and self.vllm_importance_sampling_correction:
            return MODE_OF_VLLM
        return mode

    @property
    def named_rewards(self) -> list[NamedReward]:
        """Each with its name, weight and options."""
        given = [RewardSection(name=r) if isinstance(r, str) else r for r in self.rewards]
        return [
            NamedReward(
                function_name(one.name) if one.scorer is None else one.name,
                one.name if one.scorer is None else one.scorer,
                one.weight,
                one.options,
            )
            for one in given
        ]
