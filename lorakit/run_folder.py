"""The run folder: what a run leaves behind, and how later commands find it again.

RUN/recipe.yaml       resolved, with package versions, commit and seed in its header
RUN/plan.json         what was predicted, and what was measured of it
RUN/base.json         which base it is trained on: commit, SHA-256 of config and weights
RUN/data.json         facts about the data: rows, lengths, findings, examples
RUN/choices.json      what the loop decided, such as the dtype of computation
RUN/metrics.jsonl     a line per logged step
RUN/completions.jsonl  samples of what train.method grpo rolled out, with their rewards
RUN/checkpoints/      everything needed to go on
RUN/warm_start/       the run of SFT before that, a run folder of its own
RUN/vllm/             the adapter that a vLLM server answers with, while it does
RUN/adapter/          PEFT's format, with the tokenizer beside it
RUN/tokenizer/        tokenizer, the chat template trained with, and the tokens to stop at
RUN/evaluation.json   before and after
RUN/answers.jsonl     what base and tuned answered, a line each
RUN/report.html       one page about all of it
RUN/compare.json      five ways to answer, measured (`lorakit compare`)
RUN/compare_answers.jsonl  what each of them answered
RUN/compare.html      one page about that
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lorakit.errors import CheckpointError, InputError, NonFiniteError, RunError
from lorakit.files import STAGING_PREFIX, write_atomically, write_json
from lorakit.recipe import DataSource, Recipe, dump_recipe, load_recipe
from lorakit.recipe.builtin_names import is_builtin_data, is_builtin_model
from lorakit.recipe.sections.evaluate import EVALUATION_SETS
from lorakit.recipe.sections.grpo import RewardItem
from lorakit.recipe.warm_start import FOLDER

COMPUTE_DTYPES = ("float32", "bfloat16", "float16", "float64")
PACKAGES = ("lorakit", "torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def base(self) -> Path:
        return self.path / "base.json"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def choices(self) -> Path:
        return self.path / "choices.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def answers(self) -> Path:
        return self.path / "answers.jsonl"

    @property
    def completions(self) -> Path:
        return self.path / "completions.jsonl"

    @property
    def warm_start(self) -> RunFolder:
        return RunFolder(self.path / FOLDER)

    @property
    def compare(self) -> Path:
        return self.path / "compare.json"

    @property
    def compare_answers(self) -> Path:
        return self.path / "compare_answers.jsonl"

    @property
    def compare_page(self) -> Path:
        return self.path / "compare.html"

    @property
    def report(self) -> Path:
        return self.path / "report.html"


def find_run(recipe: Recipe, *, resume: bool) -> RunFolder:
    """The run folder of a recipe, new or to be resumed. Nothing is written.

    Raises:
        InputError: the folder holds something and `resume` is false, or no run and it is true.
    """
    run = RunFolder(Path(recipe.output.dir).expanduser())
    if run.path.exists() and not run.path.is_dir():
        raise InputError(f"output.dir {str(run.path)!r} is a file; name a folder that may be made.")
    # A staging file is what a kill in the very first write leaves behind.
    filled = run.path.is_dir() and any(
        not path.name.startswith(STAGING_PREFIX) for path in run.path.iterdir()
    )
    if filled and not resume:
        raise InputError(
            f"output.dir {str(run.path)!r} is not empty; go on with --resume, choose another "
            "folder with --output, or remove it."
        )
    if resume and not run.path.is_dir():
        raise InputError(
            f"output.dir {str(run.path)!r} is not there: no run to resume. Name the run's folder "
            "with --output, or leave out --resume to start."
        )
    if filled and not run.recipe.is_file():
        raise InputError(
            f"output.dir {str(run.path)!r} holds no run to resume: it has no recipe.yaml. Name the "
            "run's folder with --output, or an empty one to start."
        )
    return run


def write_recipe(run: RunFolder, recipe: Recipe) -> None:
    """Keep the recipe as resolved: absolute paths; versions, commit and seed in the header."""
    header = [f"# {package} {version(package)}" for package in PACKAGES] + [
        f"# python {platform.python_version()} on {platform.platform()}",
        f"# commit {commit() or 'not in a git checkout'}",
        f"# seed {recipe.train.seed} (data order, adapter init, dropout)",
    ]
    text = "\n".join(header) + "\n" + dump_recipe(with_absolute_paths(recipe))
    write_atomically(run.recipe, text.encode())


def record_measured(run: RunFolder, measured: dict[str, Any]) -> None:
    """Put what was measured beside what the plan of the run predicted."""
    values = json.loads(run.plan.read_text("utf-8"))
    values["measured"] = values.get("measured", {}) | measured
    write_json(run.plan, values)


def record_peaks(run: RunFolder, peaks: dict[str, int]) -> tuple[int, int]:
    """Put the most memory of each moment beside the plan's.

    Where a run was resumed, processes before this one may have taken more: what they recorded
    counts, and what their steps logged.

    Args:
        peaks: {moment: bytes}, as this process measured them.

    Returns:
        What the plan of the run predicted, and the most that was measured.
    """
    values = json.loads(run.plan.read_text("utf-8"))
    before = values.get("measured", {}).get("memory_bytes", {})
    most = {name: max(count, before.get(name, 0)) for name, count in peaks.items()}
    measured = before | most
    measured["peak"] = max(measured.values())
    record_measured(run, {"memory_bytes": measured})
    return values["memory_bytes"]["peak"], measured["peak"]


def resume_command(run: RunFolder) -> str:
    """What goes on with a run from its newest whole checkpoint, in either stage."""
    recipe, place = shlex.quote(str(run.recipe)), shlex.quote(str(run.path))
    return f"lorakit train {recipe} --output {place} --resume"


@contextmanager
def naming_resumption(run: RunFolder) -> Iterator[None]:
    """Add to what stops a run how it goes on, where it has a checkpoint of it."""
    try:
        yield
    except (CheckpointError, NonFiniteError):
        raise  # the same again would end the same
    except RunError as error:
        stages = (run, run.warm_start)
        if any(next(stage.checkpoints.glob("step-*"), None) for stage in stages):
            error.add_note(f"`{resume_command(run)}` goes on with it.")
        raise


def finished_run(path: Path) -> tuple[RunFolder, Recipe]:
    """A run whose adapter is written, and its recipe.

    Raises:
        InputError: no such folder, or not a run.
        RunError: the run has not finished.
    """
    run = RunFolder(path)
    if path.is_file():
        raise InputError(
            f"{str(path)!r} is a file and no run folder. Name the folder that `lorakit train` "
            "wrote, the output.dir of its recipe."
        )
    if not run.recipe.is_file():
        raise InputError(
            f"{str(path)!r} is no run folder: it has no recipe.yaml. Name the folder that "
            "`lorakit train` wrote."
        )
    if not (run.adapter / "adapter_config.json").is_file():
        raise RunError(
            f"the run {str(path)!r} has no adapter yet; finish it with `{resume_command(run)}`."
        )
    return run, load_recipe(run.recipe)


def dtype_of(run: RunFolder) -> str:
    """The dtype that the base computed in, such as "bfloat16".

    Raises:
        RunError: choices.json is missing or does not say.
    """
    try:
        recorded = json.loads(run.choices.read_text("utf-8"))["dtype"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        recorded = error
    name = recorded.removeprefix("torch.") if isinstance(recorded, str) else None
    if name not in COMPUTE_DTYPES:
        raise RunError(
            f"{run.choices} does not say which dtype the run computed in ({recorded}); possible: "
            f"one of {', '.join(COMPUTE_DTYPES)}. Restore the file as `lorakit train` wrote it."
        )
    return name


def commit() -> str | None:
    """The commit of the checkout that lorakit runs from, `+` when it has local changes."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The same recipe, readable from any working directory."""
    resolved = recipe.model_copy(deep=True)
    if not is_builtin_model(resolved.base.model):
        resolved.base.model = _absolute(resolved.base.model)
    if resolved.adapter.path is not None:
        resolved.adapter.path = _absolute(resolved.adapter.path)
    if resolved.data.chat_template is not None:
        resolved.data.chat_template = _absolute(resolved.data.chat_template)
    resolved.data.train = _absolute_sources(resolved.data.train)
    resolved.data.validation = _absolute_sources(resolved.data.validation)
    for name in EVALUATION_SETS:
        setattr(resolved.evaluate, name, _absolute_sources(getattr(resolved.evaluate, name)))
    if resolved.warm_start is not None:
        for name in ("train", "validation"):
            given = _absolute_sources(getattr(resolved.warm_start, name))
            setattr(resolved.warm_start, name, given)
    resolved.grpo.rewards = [_absolute_reward(reward) for reward in resolved.grpo.rewards]
    if resolved.evaluate.json_schema is not None:
        resolved.evaluate.json_schema = _absolute(resolved.evaluate.json_schema)
    for name in ("documents", "prices"):
        given = getattr(resolved.compare, name)
        if given is not None:
            setattr(resolved.compare, name, _absolute(given))
    resolved.output.dir = str(Path(resolved.output.dir).expanduser().absolute())
    return resolved


def _absolute_sources(sources: Any) -> Any:
    if isinstance(sources, list):
        return [_absolute_sources(source) for source in sources]
    if isinstance(sources, DataSource):
        return sources.model_copy(update={"path": _absolute_sources(sources.path)})
    if not isinstance(sources, str) or is_builtin_data(sources):
        return sources
    return _absolute(sources)


def _absolute_reward(reward: RewardItem) -> RewardItem:
    if isinstance(reward, str):
        return _absolute_scorer(reward)
    key, scorer = ("name", reward.name) if reward.scorer is None else ("scorer", reward.scorer)
    options = {
        name: _absolute(value) if name == scorer == "json_schema" else value
        for name, value in reward.options.items()
    }
    return reward.model_copy(update={key: _absolute_scorer(scorer), "options": options})


def _absolute_scorer(scorer: str) -> str:
    where, colon, function = scorer.rpartition(":")
    return f"{_absolute(where)}:{function}" if colon else scorer


def _absolute(path: str) -> str:
    """An existing path made absolute; anything else is a hub id and stays."""
    found = Path(path).expanduser()
    return str(found.absolute()) if found.exists() else path
