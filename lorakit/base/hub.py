"""A model's files: a folder as it is, the built-in one, or a hub id downloaded without anything
that could run.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lorakit import builtin
from lorakit.base.checkpoint import weight_files
from lorakit.base.config import read_config
from lorakit.errors import ModelError, in_one_line
from lorakit.recipe.builtin_names import is_builtin_model

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")
# What a copy of the model must be accompanied by.
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", *LICENCES]


def resolve(
    model: str | Path, revision: str | None = None, *, given_as: str = "base.model"
) -> Path:
    """The local folder of a model, downloaded if need be.

    Args:
        model: a folder, a hub id such as `org/name`, or `builtin` (`./builtin` is a folder).
        revision: branch, tag or commit of a hub id.
        given_as: what the user named the model in, for messages.

    Raises:
        ModelError: neither a folder nor a hub id that can be downloaded, or its config is refused
            (checked before the weights are downloaded).
    """
    folder = local_path(model)
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"revision {revision!r} was given with the folder {str(model)!r}; possible: "
                "revisions of hub ids. Remove it."
            )
        return folder
    read_config(resolve_config(model, revision, given_as=given_as))
    small = _download(str(model), revision, SMALL_FILES, given_as)
    return _download(str(model), revision, [*SMALL_FILES, *weight_files(small)], given_as)


def resolve_config(
    model: str | Path, revision: str | None = None, *, given_as: str = "base.model"
) -> Path:
    """The local config.json of a model (or the path of one); nothing else is downloaded.

    Raises:
        ModelError: as in `resolve`.
    """
    path = local_path(model)
    if path.is_file() and path.suffix == ".json":
        return path
    if path.is_dir():
        return resolve(path, revision) / "config.json"
    _check_hub_id(model, given_as)
    return _download(str(model), revision, ["config.json"], given_as) / "config.json"


def resolve_small_files(model: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model's config and tokenizer; weights are not downloaded.

    Raises:
        ModelError: as in `resolve`.
    """
    if local_path(model).is_dir():
        return resolve(model, revision)
    _check_hub_id(model, "base.model")
    return _download(str(model), revision, SMALL_FILES, "base.model")


def commit_of(model: str | Path, folder: Path) -> str | None:
    """The commit of a hub id that `resolve` gave `folder` for; None: `model` is a folder."""
    # A snapshot of the hub's cache is named after its commit, whatever branch was asked for.
    return None if local_path(model).is_dir() else folder.name


def weights_are_here(folder: Path) -> bool:
    """Whether all weight files of a model folder have been downloaded."""
    return all((folder / name).is_file() for name in weight_files(folder))


def local_path(model: str | Path) -> Path:
    """Where the files of `model` lie if it is no hub id; the path need not exist."""
    # A Path is never the word: `Path("./builtin")` has lost its dot.
    if isinstance(model, str) and is_builtin_model(model):
        return builtin.model_folder()
    return Path(model).expanduser()


def _check_hub_id(model: str | Path, given_as: str) -> None:
    if local_path(model).exists() or not HUB_ID.fullmatch(str(model)):
        raise ModelError(
            f"model {str(model)!r} is neither a folder nor a hub id; possible: a folder with "
            f"config.json, `org/name`, or `builtin`. Fix {given_as}."
        )


def _download(model: str, revision: str | None, patterns: list[str], given_as: str) -> Path:
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=["*/*.safetensors", "*/*.json"],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model {model!r} is no folder here, and {_reason(error, revision)}. Possible: a "
            "folder, or, while online, a hub id that is public or open to you. Fix "
            f"{given_as}, log in with `hf auth login`, or download it first."
        ) from error


def _reason(error: Exception, revision: str | None) -> str:
    """Why the hub gave nothing, as a clause."""
    if isinstance(error, GatedRepoError):
        return "on the hub it is open only to those who were granted access"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has none of this name that is open to you"
    if isinstance(error, RevisionNotFoundError):
        return f"on the hub it has no revision {revision!r}"
    if isinstance(error, LocalEntryNotFoundError):
        return f"the hub cannot be reached ({in_one_line(error)})"
    return f"the hub refused it ({in_one_line(error)})"
