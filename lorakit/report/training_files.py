"""Shapes of plan.json, choices.json, metrics.jsonl and completions.jsonl, for the report."""

from __future__ import annotations

from typing import Any

from pydantic import Field, NonNegativeInt, model_validator

from lorakit.report.data_files import FoundFact
from lorakit.report.part import Part


class Parameters(Part):
    total: int
    trainable: int


class MeasuredFacts(Part):
    """What came of the plan: the most at any time of the run, by moment, and of all."""

    memory_bytes: dict[str, int | None] = Field(default_factory=dict)


class PlanFacts(Part):
    """plan.json."""

    parameters: Parameters
    memory_bytes: dict[str, int | None]
    steps: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    seconds: float | None = None
    measured: MeasuredFacts | None = None

    @property
    def measured_peak(self) -> int | None:
        """Bytes; None: the run has not come so far."""
        return None if self.measured is None else self.measured.memory_bytes.get("peak")


class ChoiceFacts(Part):
    """choices.json."""

    micro_batch_tokens: int
    recompute: str | None = None
    activation_bytes: int | None = None
    packed: bool
    device: str
    dtype: str
    num_threads: int | None = None
    kernels: str | None = None


class LoggedStep(Part):
    """One line of metrics.jsonl."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    tokens: int
    trained_tokens: int
    tokens_per_second: float
    peak_bytes: int
    seconds: float
    validation_loss: float | None = None
    reward: float | None = None
    zero_std: float | None = Field(None, alias="frac_reward_zero_std")
    mean_length: float | None = Field(None, alias="completions/mean_length")
    truncated: float | None = Field(None, alias="completions/clipped_ratio")
    kl: float | None = None
    entropy: float | None = None
    clipped: float | None = Field(None, alias="clip_ratio/region")
    clipped_of_cispo: float | None = Field(None, alias="cispo_clip_ratio")
    mismatch: float | None = Field(None, alias="sampling_logp_difference")
    reward_means: dict[str, float] = Field(default_factory=dict)  # of each reward, by name
    spent: dict[str, float] = Field(default_factory=dict)  # seconds since the line before, by part
    findings: list[FoundFact] = Field(default_factory=list)  # what this line showed first
    silenced: dict[str, NonNegativeInt] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _names_in_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        means = {
            key.removeprefix("rewards/").removesuffix("/mean"): value
            for key, value in values.items()
            if key.startswith("rewards/") and key.endswith("/mean")
        }
        spent = {
            key.removeprefix("seconds/"): value
            for key, value in values.items()
            if key.startswith("seconds/")
        }
        return values | {"reward_means": means, "spent": spent}


class RolledOut(Part):
    """One line of completions.jsonl."""

    step: int
    label: str = ""  # runs of before have none
    prompt: str
    reference: str
    completion: str
    reward: float | None
    rewards: dict[str, float | None]
