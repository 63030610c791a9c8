"""The files of a run folder as the report reads them: what is there, checked; what is not, by name.

More keys may stand in a file than are read here; the shapes are a contract (docs/architecture.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from lorakit.data.variants import source_and_variant
from lorakit.errors import InputError, RunError
from lorakit.evaluate.statistics import MIN_EXAMPLES, Verdict
from lorakit.recipe import Recipe, load_recipe
from lorakit.report.part import Part
from lorakit.report.proof_files import (
    Calibration,
    Memorisation,
    Overfitting,
    Truncated,
    Variant,
)
from lorakit.run_folder import RunFolder
from lorakit.train.metrics import read_metrics

# Known names in the order they are told in.
STORY = (
    *("train", "validation", "in_domain", "out_of_domain", "retention"),
    *("loss", "perplexity", "kl"),
)

Value = TypeVar("Value")


def in_order(names: Iterable[str]) -> list[str]:
    """Names of sets or metrics without repetition, those of STORY first, in its order, and variants
    of a set behind it."""
    there = dict.fromkeys(names)
    told = dict.fromkeys([*(name for name in STORY if name in there), *there])
    sources = {name: (source_and_variant(name) or (name,))[0] for name in told}
    places = {name: place for place, name in enumerate(told)}
    return sorted(
        told, key=lambda name: (places.get(sources[name], places[name]), sources[name] != name)
    )


def _told(values: dict[str, Value]) -> dict[str, Value]:
    return {name: values[name] for name in in_order(values)}


Told = AfterValidator(_told)


class Change(Part):
    """One metric before and after; None: not a finite number."""

    base: float | None
    tuned: float | None
    difference: float | None
    interval: tuple[float | None, float | None]
    examples: int | None = None
    higher_is_better: bool = False
    distance: bool = False
    only_losses: bool = False  # a gain is no merit: of retention, where it does not decide
    stderr: tuple[float | None, float | None] = (None, None)
    # Of base and tuned alone, where answers were sampled.
    base_interval: tuple[float, float] | None = None
    tuned_interval: tuple[float, float] | None = None

    @property
    def enough(self) -> bool:
        """Whether anything can be concluded from so many examples."""
        return self.examples is None or self.examples >= MIN_EXAMPLES


class Forgotten(Part):
    """An example whose loss rose: mean per trained token, in nats."""

    index: int
    where: str
    text: str
    base: float
    tuned: float


class Correction(Part):
    """How many verdicts a p-value was corrected for."""

    tests: int


class SetEvaluation(Part):
    """One set of evaluation.json."""

    examples: int
    available: int | None = None
    metrics: Annotated[dict[str, Change], Told]
    primary: str = "loss"
    verdict: Verdict
    margin: float | None = None
    notes: tuple[str, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    p_value: float | None = None
    p_value_corrected: float | None = None
    correction: Correction | None = None
    calibration: Calibration | None = None
    choice_calibration: Calibration | None = None
    overfitting: Overfitting | None = None
    memorisation: Memorisation | None = None
    variant: Variant | None = None
    truncated: Truncated | None = None

    @model_validator(mode="before")
    @classmethod
    def _every_metric_knows_its_set(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("metrics"), dict):
            return values
        decides = values.get("primary", "loss")
        counted = {
            name: {
                "examples": values.get("examples"),
                "only_losses": values.get("margin") is not None and name != decides,
            }
            | one
            if isinstance(one, dict)
            else one
            for name, one in values["metrics"].items()
        }
        return values | {"metrics": counted}

    @property
    def primary_change(self) -> Change | None:
        """The change that the verdict rests on; None where it was not measured."""
        return self.metrics.get(self.primary)


class Scores(Part):
    """One answer of each model, scored."""

    base: float
    tuned: float


class Answer(Part):
    """One line of answers.jsonl."""

    set: str
    index: int
    prompt: str
    reference: str
    base: str
    tuned: str
    scores: dict[str, Scores]


class Lengths(Part):
    """A histogram: bin i holds `edges[i] < length <= edges[i + 1]`."""

    edges: list[int]
    counts: Annotated[list[NonNegativeInt], Field(min_length=1)]

    @model_validator(mode="after")
    def _every_bin_has_a_count(self) -> Lengths:
        if len(self.edges) != len(self.counts) + 1 or sorted(set(self.edges)) != self.edges:
            raise ValueError("edges should rise, and be one more than counts")
        return self


class SetFacts(Part):
    """One set of data.json."""

    read: int
    kept: int
    dropped: int
    tokens: int
    trained_tokens: int
    lengths: Lengths
    longest: int
    max_length: int | None


class FoundFact(Part):
    """One finding of data.json."""

    id: str
    severity: Literal["error", "warning", "note"]
    message: str
    where: str


class TextPiece(Part):
    """The text of a token."""

    text: str
    trained: bool


class LeftOut(Part):
    """Tokens of an example that are not shown."""

    before: int = 0
    after: int = 0


class ShownExample(Part):
    """An example of data.json, token by token."""

    set: str
    pieces: list[TextPiece]
    index: int | None = None
    tokens: int | None = None
    left_out: LeftOut = LeftOut()


class DataFacts(Part):
    """data.json."""

    sets: Annotated[dict[str, SetFacts], Told]
    findings: list[FoundFact]
    examples: list[ShownExample]


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


@dataclass(frozen=True)
class RunFiles:
    """Everything a run folder says; None or empty where a file is not there.

    Sets and metrics are in the order they are told in: files keep them in that of the alphabet.

    Attributes:
        versions: the header lines of recipe.yaml, such as `torch 2.13.0`.
        missing: names of the files that are not there, in the order of `FILES`.
    """

    folder: RunFolder
    recipe: Recipe | None
    versions: tuple[str, ...]
    plan: PlanFacts | None
    choices: ChoiceFacts | None
    metrics: list[LoggedStep]
    data: DataFacts | None
    evaluation: dict[str, SetEvaluation]
    answers: list[Answer]
    completions: list[RolledOut]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.path.resolve().name

    def has(self, name: str) -> bool:
        """Whether the folder has the file of that name."""
        return name not in self.missing


def read_run(path: Path) -> RunFiles:
    """Read a run folder, finished or not.

    Raises:
        InputError: no such folder, or none of a run's files is in it.
        RunError: a file is damaged.
    """
    folder = RunFolder(path)
    files = {
        file.name: file
        for file in (
            folder.recipe,
            folder.plan,
            folder.data,
            folder.choices,
            folder.metrics,
            folder.evaluation,
            folder.answers,
        )
    }
    missing = tuple(name for name, file in files.items() if not file.is_file())
    if len(missing) == len(files):
        raise InputError(
            f"{str(path)!r} is no run folder: it has none of {', '.join(files)}. Name the folder "
            "that `lorakit train` wrote."
        )
    has_recipe = folder.recipe.name not in missing
    return RunFiles(
        folder=folder,
        recipe=load_recipe(folder.recipe) if has_recipe else None,
        versions=_header(folder.recipe) if has_recipe else (),
        plan=read_json(folder.plan, PlanFacts, None),
        choices=read_json(folder.choices, ChoiceFacts, None),
        metrics=_checked(folder.metrics, read_metrics, list[LoggedStep], []),
        data=read_json(folder.data, DataFacts, None),
        evaluation=read_json(folder.evaluation, Annotated[dict[str, SetEvaluation], Told], {}),
        answers=read_json_lines(folder.answers, list[Answer], []),
        completions=read_json_lines(folder.completions, list[RolledOut], []),
        missing=missing,
    )


def read_json(path: Path, shape: Any, absent: Value) -> Any | Value:
    """A file of one JSON value in `shape`; `absent` where it is not there.

    Raises:
        RunError: it is damaged.
    """
    return _checked(path, lambda file: json.loads(file.read_text("utf-8")), shape, absent)


def read_json_lines(path: Path, shape: Any, absent: Value) -> Any | Value:
    """The same for a file of JSON lines."""
    return _checked(path, _json_lines, shape, absent)


def _checked(path: Path, parse: Callable[[Path], Any], shape: Any, absent: Value) -> Any | Value:
    """What `parse` makes of the file, in `shape`; `absent` where there is no such file."""
    if not path.is_file():
        return absent
    try:
        return TypeAdapter(shape).validate_python(parse(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise _damaged(path, f"{place}: {fault['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"{str(path)!r} is not what lorakit writes there: {reason}. Restore it, or delete it: the "
        "report then says that it is not there."
    )


def _json_lines(path: Path) -> list[Any]:
    # Not splitlines, which also splits at characters that JSON texts may hold, such as U+2028.
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def _header(path: Path) -> tuple[str, ...]:
    """The comment lines that a resolved recipe opens with: versions, machine, commit, seed."""
    found = re.match(r"(?:#.*\n)*", path.read_text("utf-8"))
    assert found is not None  # it matches the empty text too
    return tuple(line.removeprefix("#").strip() for line in found[0].splitlines())
