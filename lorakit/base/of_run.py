"""Which base a run was trained on: written down when it begins, and held against what lies there
whenever base and adapter come together again.

    RUN/base.json    {"model", "commit", "config_sha256", "weights_sha256"}
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

from lorakit.base import hub
from lorakit.base.config import config_fingerprint, read_config
from lorakit.base.fingerprint import checkpoint_sha256
from lorakit.errors import ModelError, RunError
from lorakit.files import write_json
from lorakit.recipe import BaseSection, Recipe
from lorakit.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaseIdentity:
    """What tells one base from another, wherever its files lie.

    Attributes:
        model: folder, hub id or `builtin`, as the recipe named it.
        commit: of a hub id, the one that its branch or tag stood for; None: a folder.
        config_sha256: of config.json, without what says who wrote it.
        weights_sha256: of the names, dtypes, shapes and sampled bytes of all tensors.
    """

    model: str
    commit: str | None
    config_sha256: str
    weights_sha256: str

    def differences(self, found: BaseIdentity) -> list[str]:
        """What is not the same, in words, with the beginnings of the SHA-256."""
        parts = {"config_sha256": "config.json", "weights_sha256": "weights"}
        pairs = {name: (vars(self)[key], vars(found)[key]) for key, name in parts.items()}
        return [
            f"its {name} had the SHA-256 {one[:12]}, now {other[:12]}"
            for name, (one, other) in pairs.items()
            if one != other
        ]


def identity_of(base: BaseSection) -> BaseIdentity:
    """The base that the section names, as it is now.

    Raises:
        ModelError: its files are missing, refused or broken.
    """
    folder = hub.resolve(base.model, base.revision)
    return BaseIdentity(
        base.model,
        hub.commit_of(base.model, folder),
        config_fingerprint(read_config(folder / "config.json")),
        checkpoint_sha256(folder),
    )


def write_identity(run: RunFolder, base: BaseSection) -> None:
    """Write down the base that the run is trained on."""
    write_json(run.base, asdict(identity_of(base)))


def pinned(run: RunFolder, base: BaseSection) -> BaseSection:
    """The section with the commit that the run began with, where it names a hub id."""
    recorded = _recorded(run)
    if recorded is None or recorded.commit is None or recorded.model != base.model:
        return base
    return base.model_copy(update={"revision": recorded.commit})


def base_of_run(run: RunFolder, recipe: Recipe) -> BaseSection:
    """The base that a run's adapter belongs to: pinned, and the one that it was trained on.

    A run that wrote down no base, as those of older versions, cannot be checked: that is logged.

    Raises:
        ModelError: another base lies there now, or none.
        RunError: base.json is broken.
    """
    base = pinned(run, recipe.base)
    recorded = _recorded(run)
    if recorded is None:
        logger.warning(
            "%s has no base.json: whether %s is still the base that the run was trained on cannot "
            "be checked",
            run.path,
            base.model,
        )
        return base
    differences = recorded.differences(identity_of(base))
    if differences:
        raise ModelError(
            f"the base {base.model!r} is not the one that the run {str(run.path)!r} was trained "
            f"on: {', and '.join(differences)} (sampled; {run.base.name} has the first). Possible: "
            "the very base, since the adapter means nothing on another. Put the files back that "
            "the run was trained on, or train again on those that are there now."
        )
    return base


def _recorded(run: RunFolder) -> BaseIdentity | None:
    if not run.base.exists():
        return None
    try:
        return BaseIdentity(**json.loads(run.base.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{run.base} cannot be read ({error}); possible: the file as `lorakit train` wrote it. "
            "Restore it."
        ) from error
