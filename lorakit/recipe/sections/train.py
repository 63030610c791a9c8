"""`train`: the training loop, with the names of transformers' TrainingArguments."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lorakit.recipe.sections.section import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Seed,
)
from lorakit.recipe.sections.stage import StageSection

# Tokens of a forward pass where the recipe names no budget: on a CPU, and without a backward pass
# on a GPU, more tokens no longer make matrix products faster per token.
FORWARD_TOKENS = 2048


class TrainSection(StageSection):
    """The training loop."""

    method: Literal["sft", "grpo"] = Field(
        "sft", description="sft: answers are learned; grpo: what section grpo rewards."
    )
    micro_batch_tokens: PositiveInt | None = Field(
        None, description="Token budget of one forward pass; null: chosen, recorded in the run."
    )
    optim: str = Field(
        "adamw_torch",
        description="adamw_torch, adamw_8bit, paged_adamw_32bit or paged_adamw_8bit.",
    )
    optim_memory: str | None = Field(
        None,
        description="Bytes of a paged optimizer's state on the device, such as `64MB`; the rest is "
        "in host memory. null: 64 MiB.",
    )
    loraplus_lr_ratio: PositiveFloat | None = Field(
        None, description="LoRA+: learning rate of lora_B over that of lora_A; null: 1."
    )
    loraplus_lr_embedding: PositiveFloat | None = Field(
        None, description="LoRA+: learning rate of adapted embeddings; null: 1e-6."
    )
    weight_decay: NonNegativeFloat = 0.0
    adam_beta1: Probability = 0.9
    adam_beta2: Probability = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat | None = Field(
        1.0, description="Clip the gradient norm; null: do not."
    )
    gradient_checkpointing: bool | Literal["auto", "selective"] = Field(
        "auto",
        description="Compute activations again in the backward pass: true, every layer; selective, "
        "the MLP's; auto, as much as memory asks for.",
    )
    worst_batch_first: bool = Field(
        True,
        description="Run the micro-batch that takes the most memory before the first step, and "
        "throw its effect away: a run that does not fit fails at once. Costs up to two steps.",
    )
    compact_heap: bool = Field(
        False,
        description="On a CPU, give the memory of large tensors back at once: up to a third less, "
        "some 20 % slower.",
    )
    kernels: Literal["auto", "reference"] = Field(
        "auto", description="reference: every op in plain PyTorch, slower, to compare with."
    )
    seed: Seed = 42
    logging_steps: PositiveInt = 1
    eval_steps: PositiveInt | None = Field(
        None, description="Validation every N steps; null: each epoch."
    )
    save_total_limit: Annotated[int, Field(ge=2)] = Field(
        3, description="Checkpoints kept, at least 2."
    )
    early_stopping_patience: PositiveInt | None = Field(
        None, description="Stop after N validations without improvement; the best weights are kept."
    )
    early_stopping_threshold: NonNegativeFloat = 0.0
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(default_factory=list)

    @property
    def batch_of(self) -> Literal["example", "completion"]:
        """What an optimizer step sees `batch_size` of."""
        return "completion" if self.method == "grpo" else "example"

    @property
    def forward_tokens(self) -> int:
        """Token budget of a pass that trains nothing."""
        return self.micro_batch_tokens or FORWARD_TOKENS
