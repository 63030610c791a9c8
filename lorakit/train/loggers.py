"""Where metrics go besides `metrics.jsonl`, when asked for: TensorBoard, trackio, W&B."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Logger(Protocol):
    """A place that takes a dict of numbers per step."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def open_loggers(
    names: Sequence[str], folder: Path | None, *, first_step: int, config: Mapping[str, Any]
) -> list[Logger]:
    """One logger per name.

    Args:
        names: `tensorboard`, `trackio`, `wandb`.
        folder: the run folder; its name is the run's name. None: the working directory.
        first_step: the step the run goes on from; TensorBoard drops what it has beyond.
        config: shown beside the curves.

    Raises:
        ImportError: the package is missing; the message says how to install it.
    """
    place = Path() if folder is None else folder
    return [_OPENERS[name](place, first_step, config) for name in names]


class _TensorBoard:
    def __init__(self, folder: Path, first_step: int, config: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(_missing("tensorboard")) from error
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    def __init__(self, folder: Path, first_step: int, config: Mapping[str, Any]) -> None:
        try:
            import trackio
        except ImportError as error:
            raise ImportError(_missing("trackio")) from error
        self._run = trackio.init(
            project="lorakit", name=folder.resolve().name, config=dict(config), resume="allow"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Wandb:
    def __init__(self, folder: Path, first_step: int, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(_missing("wandb")) from error
        self._run = wandb.init(
            project="lorakit",
            dir=str(folder),
            id=folder.resolve().name,
            config=dict(config),
            resume="allow",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_OPENERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Logger]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _Wandb,
}


def _missing(package: str) -> str:
    return f"report_to {package!r} needs {package}; pip install 'lorakit[logging]'."
