"""The plain values the loop runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lorakit.recipe import TrainSection
from lorakit.train.schedule import Kind, Schedule, check_kind, count_warmup_steps

# They change what is written, when, or how soon a fault shows, never what is trained: free to
# differ on resume.
_FREE_ON_RESUME = frozenset(
    {"logging_steps", "save_steps", "save_total_limit", "report_to", "silence", "optim_memory"}
    | {"worst_batch_first", "compact_heap"}
    # Checked, and replayed where they were automatic, in choices.py.
    | {"micro_batch_tokens", "gradient_checkpointing", "kernels", "packing"}
)


@dataclass(frozen=True)
class LoopSettings:
    """How to train; meanings and defaults are those of the recipe's `train` section.

    Attributes:
        packing: whether examples may share a row, where the model's family allows it.
        silence: ids of what is seen while training that is counted instead of told.

    Raises:
        InputError: `lr_scheduler_type` is not known.
    """

    num_train_epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 8
    micro_batch_tokens: int | None = None
    packing: bool = True
    optim: str = "adamw_torch"
    optim_memory: str | None = None
    learning_rate: float = 2e-4
    loraplus_lr_ratio: float | None = None
    loraplus_lr_embedding: float | None = None
    lr_scheduler_type: Kind = "cosine"
    warmup_steps: int | None = None
    warmup_ratio: float | None = None
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    gradient_checkpointing: bool | Literal["auto", "selective"] = "auto"
    worst_batch_first: bool = True
    compact_heap: bool = False
    kernels: Literal["auto", "reference"] = "auto"
    seed: int = 42
    logging_steps: int = 1
    eval_steps: int | None = None
    save_steps: int | None = None
    save_total_limit: int = 3
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    report_to: tuple[str, ...] = ()
    silence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_kind(self.lr_scheduler_type)

    @classmethod
    def from_section(
        cls, section: TrainSection, *, packing: bool, silence: Sequence[str] = ()
    ) -> LoopSettings:
        """From the recipe's `train` section (or an SFTConfig), its `data.packing` and its
        `check.silence`."""
        values = section.model_dump(
            include=set(cls.__dataclass_fields__) - {"packing", "report_to", "silence"}
        )
        return cls(
            **values,
            packing=packing,
            report_to=tuple(section.report_to),
            silence=tuple(silence),
        )

    def identity(self) -> dict[str, Any]:
        """The values that a resumed run must share with the checkpoint it goes on from."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE_ON_RESUME}

    def schedule(self, num_steps: int) -> Schedule:
        """The learning rates of a run of so many optimizer steps."""
        num_warmup_steps = count_warmup_steps(
            self.lr_scheduler_type,
            num_steps,
            warmup_steps=self.warmup_steps,
            warmup_ratio=self.warmup_ratio,
        )
        return Schedule(self.lr_scheduler_type, self.learning_rate, num_steps, num_warmup_steps)
