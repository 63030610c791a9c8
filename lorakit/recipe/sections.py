"""Every knob of lorakit: the pydantic models that a YAML recipe is read into.

The sections' names and fields are a contract (docs/architecture.md). Names are the ecosystem's:
PEFT's in `adapter`, transformers' in `train`, with one deliberate change: `batch_size` is the
number of examples per optimizer step, and the engine chooses the micro-batches that fit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from lorakit.recipe.rules import RuleError, broken_rules

# Far above any use, and low enough that sums of them stay in 64 bits.
LARGEST_COUNT = 10**9
PositiveInt = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range that every generator accepts
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values are checked when assigned."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_from_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts True as 1: `r: true` must not become rank 1.
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and _is_number(field.annotation):
            raise ValueError("should be a number, not true or false")
        return value


def _is_number(annotation: Any) -> bool:
    leaves = _leaves(annotation)
    return bool(leaves & {int, float}) and bool not in leaves


def _leaves(annotation: Any) -> set[Any]:
    parts = [part for part in get_args(annotation) if not isinstance(part, FieldInfo)]
    return set().union(*map(_leaves, parts)) if parts else {annotation}


class BaseSection(Section):
    """The frozen base model."""

    model: str = Field(description="A folder, a hub id, or `builtin` (`./builtin` is a folder).")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    quantization: Literal["none", "nf4", "fp4", "int8", "checkpoint"] = Field(
        "none",
        description="Storage of the frozen linear weights; `checkpoint`: as they are on disk.",
    )
    double_quantization: bool = Field(
        True, description="Quantize the block scales of nf4 and fp4 as well."
    )
    block_size: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = Field(
        64, description="Weights that share one scale in nf4 and fp4."
    )
    dtype: DtypeName = Field(
        "auto", description="Compute dtype; auto: bfloat16 on GPUs that have it, float32 on CPU."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:0`.")
    offload: Literal["auto", "none", "cpu", "disk"] = Field(
        "auto",
        description="Where frozen layers live that do not fit the device (auto: if needed).",
    )
    max_device_memory: str | None = Field(
        None,
        description="Bytes of frozen weights on the device, such as `6GB`; the rest is offloaded.",
    )
    add_tokens: list[str] | None = Field(
        None, description="Texts that become one new token each; only their rows train."
    )
    add_special_tokens: list[str] | None = Field(
        None, description="As add_tokens, for control tokens that text never spells."
    )


class LoftqConfig(Section):
    """How init `loftq` fits the quantization error."""

    loftq_bits: Literal[2, 4, 8] | None = Field(
        None, description="Bits of the base's storage, which decides; null: whatever they are."
    )
    loftq_iter: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="How often base and factors are fitted to each other in turn."
    )


class EvaConfig(Section):
    """How init `eva` shares the rank out and reads its calibration batches."""

    rho: Annotated[float, Field(ge=1, le=1000)] = Field(
        2.0, description="A layer's rank may grow to rho times its own; 1: ranks stay."
    )
    tau: Annotated[float, Field(ge=0, le=1)] = Field(
        0.99, description="A layer is done once its directions turn less than this cosine."
    )
    use_label_mask: bool = Field(True, description="Only tokens that are trained count.")
    whiten: bool = Field(False, description="Scale directions down by their spread.")
    adjust_scaling_factors: bool = Field(
        True, description="Scaling stays what it was whatever rank a layer got."
    )


class LoraConfig(Section):
    """The adapter: names, meanings and defaults of PEFT's LoraConfig unless said otherwise.

    The default rank is 16 (PEFT: 8), the default alpha twice the rank, targets all linear layers.
    """

    kind: str | None = Field(
        None, description="Adapter kind by its file name in adapters/kinds; null: by use_dora."
    )
    r: Annotated[int, Field(ge=1, le=4096)] = Field(16, description="Rank.")
    lora_alpha: PositiveFloat | None = Field(
        None, description="Scaling numerator; null: twice a module's rank, with rsLoRA 8."
    )
    lora_dropout: Probability = Field(
        0.0, description="Dropout on the input of the low-rank branch only."
    )
    target_modules: str | list[str] = Field(
        "all-linear",
        description='"all-linear" (without the output head), a list of name endings, or a regex.',
    )
    target_parameters: list[str] | None = Field(
        None,
        description="Name endings of expert parameters; null: all with all-linear, else none.",
    )
    exclude_modules: str | list[str] | None = Field(
        None, description="Names or a regex to leave out."
    )
    layers_to_transform: NonNegativeInt | list[NonNegativeInt] | None = Field(
        None, description="Only these decoder layers; null: all."
    )
    layers_pattern: str | list[str] | None = Field(
        None, description="Name of the module list that layers_to_transform counts; null: any."
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(r) (arXiv 2312.03732).")
    use_dora: bool = Field(False, description="Weight-decomposed LoRA (arXiv 2402.09353).")
    init_lora_weights: bool | str = Field(
        True,
        description="Init by name: true, false, gaussian, pissa, pissa_niter_N, olora, loftq, eva.",
    )
    loftq_config: LoftqConfig | None = Field(None, description="Options of init loftq.")
    eva_config: EvaConfig | None = Field(None, description="Options of init eva.")
    rank_pattern: dict[str, PositiveInt] = Field(
        default_factory=dict, description="{name or regex: rank}"
    )
    alpha_pattern: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="{name or regex: alpha}"
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        "none", description="Which base biases train too."
    )
    modules_to_save: list[str] | None = Field(
        None, description="Modules trained in full and saved with the adapter."
    )
    trainable_token_indices: list[NonNegativeInt] | dict[str, list[NonNegativeInt]] | None = Field(
        None,
        description="Token ids whose rows of the input embedding train; or {module name: ids}.",
    )
    ensure_weight_tying: bool = Field(
        False, description="Refuse what would untie the output head from the embedding."
    )
    path: str | None = Field(None, description="Continue from the adapter in this folder.")

    @property
    def kind_name(self) -> str:
        """The file in adapters/kinds that implements this adapter."""
        return self.kind or ("dora" if self.use_dora else "lora")

    @property
    def layers(self) -> list[int] | None:
        """`layers_to_transform` as a list; None: all layers."""
        one = isinstance(self.layers_to_transform, int)
        layers = [self.layers_to_transform] if one else self.layers_to_transform
        return layers or None  # type: ignore[return-value]

    @property
    def patterns_of_layers(self) -> list[str]:
        """`layers_pattern` as a list; empty: any."""
        one = isinstance(self.layers_pattern, str)
        return [p for p in ([self.layers_pattern] if one else self.layers_pattern or []) if p]  # type: ignore[misc]

    @model_validator(mode="after")
    def _consistent(self) -> LoraConfig:
        if self.kind is not None and self.use_dora and self.kind != "dora":
            raise ValueError(f"use_dora is true but kind is {self.kind!r}; remove one of them")
        return self


class DataSource(Section):
    """One set of rows."""

    path: str = Field(
        description="A file (jsonl, json, csv, parquet), a folder of them, a hub id, or "
        "`builtin:train` and the like."
    )
    split: str | None = Field(None, description="Split of a hub data set.")
    name: str | None = Field(None, description="Configuration of a hub data set.")
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0,
        description="How often a row is seen per epoch; 0.5: another seeded half each epoch.",
    )
    format: str | None = Field(
        None, description="Row format of this set; null: that of the data section."
    )
    columns: dict[str, str] | None = Field(
        None, description="{name the format expects: column in the file}"
    )
    system: str | None = Field(None, description="System message for rows without one.")


def _shape(value: Any) -> str:
    """Which alternative of a data set's value is meant: errors then speak of that one only."""
    if isinstance(value, list):
        return "list"
    if isinstance(value, dict | DataSource):
        return "set"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "fraction"
    return "path"


# A path or hub id, a set with its own options, or a list of both.
OneSource = Annotated[
    Annotated[str, Tag("path")] | Annotated[DataSource, Tag("set")], Discriminator(_shape)
]
SourceList = Annotated[
    Annotated[str, Tag("path")]
    | Annotated[DataSource, Tag("set")]
    | Annotated[list[OneSource], Field(min_length=1), Tag("list")],
    Discriminator(_shape),
]
SourceListOrFraction = Annotated[
    Annotated[str, Tag("path")]
    | Annotated[DataSource, Tag("set")]
    | Annotated[list[OneSource], Field(min_length=1), Tag("list")]
    | Annotated[float, Field(gt=0, lt=1), Tag("fraction")],
    Discriminator(_shape),
]


class DataSection(Section):
    """What is trained on, and which part of each row."""

    train: SourceList = Field(
        description="A path, a hub id, or a list of them (or of {path, weight, ...})."
    )
    validation: SourceListOrFraction | None = Field(
        None,
        description="Sets like `train`, or a fraction of train held out (by `group` if named).",
    )
    group: str | None = Field(
        None, description="Column whose equal values never end up on both sides of a split."
    )
    format: str = Field("auto", description="Row format by its file name in data/formats, or auto.")
    columns: dict[str, str] = Field(
        default_factory=dict, description="{name the format expects: column in the file}"
    )
    system: str | None = Field(None, description="System message for rows without one.")
    max_length: PositiveInt | None = Field(
        None, description="Tokens per example; null: the model's context."
    )
    too_long: Literal["drop", "error"] = Field(
        "drop", description="What happens to rows over max_length."
    )
    max_dropped: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Stop when a larger share of the rows than this would be dropped."
    )
    packing: bool = Field(
        True, description="Several examples per row, each attending only to itself."
    )
    trained: Literal["assistant", "completion", "all"] = Field(
        "assistant", description="Every assistant turn, the last one only, or every token."
    )
    chat_template: str | None = Field(
        None, description="A .jinja file to use instead of the tokenizer's template."
    )


class TrainSection(Section):
    """The training loop."""

    method: Literal["sft", "grpo"] = "sft"
    num_train_epochs: Annotated[float, Field(gt=0, le=100_000)] = 3.0
    max_steps: PositiveInt | None = Field(
        None, description="Optimizer steps, instead of the epochs."
    )
    batch_size: PositiveInt = Field(8, description="Examples per optimizer step.")
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
    learning_rate: PositiveFloat = 2e-4
    loraplus_lr_ratio: PositiveFloat | None = Field(
        None, description="LoRA+: learning rate of lora_B over that of lora_A; null: 1."
    )
    loraplus_lr_embedding: PositiveFloat | None = Field(
        None, description="LoRA+: learning rate of adapted embeddings; null: 1e-6."
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: NonNegativeInt | None = None
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of steps; default 0.05."
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
    kernels: Literal["auto", "reference"] = Field(
        "auto", description="reference: every op in plain PyTorch, slower, to compare with."
    )
    seed: Seed = 42
    logging_steps: PositiveInt = 1
    eval_steps: PositiveInt | None = Field(
        None, description="Validation every N steps; null: each epoch."
    )
    save_steps: PositiveInt | None = Field(
        None, description="Checkpoint every N steps; null: each epoch."
    )
    save_total_limit: Annotated[int, Field(ge=2)] = Field(
        3, description="Checkpoints kept, at least 2."
    )
    early_stopping_patience: PositiveInt | None = Field(
        None, description="Stop after N validations without improvement; the best weights are kept."
    )
    early_stopping_threshold: NonNegativeFloat = 0.0
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_warmup(self) -> TrainSection:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("warmup_steps and warmup_ratio are both given; give one of them")
        return self


class EvaluateSection(Section):
    """What the run is proven on."""

    in_domain: SourceList | None = None
    out_of_domain: SourceList | None = None
    retention: SourceList | None = None
    metrics: list[str] = Field(
        default_factory=lambda: ["loss", "perplexity", "token_f1", "rouge_l"],
        description="loss, perplexity, and scorers of greedy answers by file name in tasks.",
    )
    primary: str | dict[str, str] = Field(
        "loss",
        description="The metric the verdict rests on; or {set: metric}, loss where none is named.",
    )
    margin: NonNegativeFloat = Field(
        0.05, description="How much retention may lose, in the unit of its primary metric."
    )
    max_examples: PositiveInt | None = Field(
        None, description="Examples per set, drawn by the seed; null: all."
    )
    max_generated: PositiveInt = Field(
        100, description="Examples per set that are answered, drawn by the seed."
    )
    max_new_tokens: PositiveInt = Field(256, description="Tokens of an answer, at most.")
    regex: str | None = Field(None, description="What metric regex searches for in an answer.")
    json_schema: str | None = Field(
        None, description="File with the schema that metric json_schema holds answers to."
    )


class OutputSection(Section):
    """Where the run goes."""

    dir: str = Field("runs/{name}", description="The run folder; {name} is the recipe's file name.")


class Recipe(Section):
    """A whole recipe."""

    base: BaseSection
    adapter: LoraConfig = Field(default_factory=LoraConfig)
    data: DataSection
    train: TrainSection = Field(default_factory=TrainSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    output: OutputSection = Field(default_factory=OutputSection)

    @model_validator(mode="after")
    def _every_option_takes_effect(self) -> Recipe:
        faults = broken_rules(self)
        if faults:
            raise RuleError(faults)
        return self
