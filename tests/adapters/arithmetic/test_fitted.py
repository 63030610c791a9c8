"""Adapters whose start was fitted to a quantized base: the correction is in a result once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters import own_form
from lorakit.adapters.arithmetic.combine import combine_adapters
from lorakit.adapters.arithmetic.convert import convert_adapter
from lorakit.adapters.attached import attached
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.cli import main
from lorakit.errors import AdapterError
from tests.adapters.bases import Load, attach_init, perturb
from tests.tolerances import relative_error

STARTS: dict[str, tuple[str, dict[str, object]]] = {
    "loftq": ("loftq", {}),
    "loftq, 3 iterations": ("loftq", {"loftq_config": {"loftq_iter": 3}}),
    "pissa": ("pissa", {}),
}
# Factors are stored in float32.
EXACT = 1e-6

Weights = dict[str, torch.Tensor]


def trained(
    load: Load, folder: Path, init: str, *, seed: int, **config: object
) -> tuple[Weights, Weights]:
    """Save an adapter trained on NF4: {layer: what training changed}, {layer: its correction}."""
    model = load("llama", "nf4")
    adapter = attach_init(model, init, **({"lora_alpha": 6} | config))
    perturb(model, seed=seed)
    save_adapter(model, folder)
    changes, corrections = {}, {}
    for name, module in adapter.modules.items():
        s, kind, kept = module.adapter.scaling, module.adapter, module.kept_start
        now = (s * kind.lora_B.double() @ kind.lora_A.double()).detach()
        if kept is None:
            changes[name], corrections[name] = now, torch.zeros_like(now)
            continue
        start, taken = kept.start, kept.start.subtracted
        began = s * start.lora_B.double() @ start.lora_A.double()
        gone = 0 if taken is None else s * taken.lora_B.double() @ taken.lora_A.double()
        changes[name], corrections[name] = now - began, began - gone
    return changes, corrections


def added(load: Load, folder: Path) -> Weights:
    """{layer: what the adapter in `folder` adds to the base quantized as it is}."""
    model: PreTrainedModel = load("llama", "nf4")
    load_adapter(model, folder)
    return {
        name: (m.adapter.scaling * m.adapter.lora_B.double() @ m.adapter.lora_A.double()).detach()
        for name, m in attached(model).modules.items()
    }


@pytest.mark.parametrize("how", STARTS)
@pytest.mark.parametrize(
    ("method", "weights"),
    [("add", (1.0, 1.0)), ("add", (0.5, -2.0)), ("interpolate", (3.0, 1.0)), ("concatenate", None)],
)
def test_the_correction_is_there_once(
    load: Load, tmp_path: Path, how: str, method: str, weights: tuple[float, float] | None
) -> None:
    init, config = STARTS[how]
    one, correction = trained(load, tmp_path / "one", init, seed=1, **config)
    two, _ = trained(load, tmp_path / "two", init, seed=2, **config)
    assert any(bool(part.any()) for part in correction.values()) is (init == "loftq")
    combine_adapters(
        [tmp_path / "one", tmp_path / "two"], tmp_path / "out", method=method, weights=weights
    )
    w1, w2 = weights or (1.0, 1.0)
    total = w1 + w2 if method == "interpolate" else 1.0
    for name, found in added(load, tmp_path / "out").items():
        expected = correction[name] + (w1 * one[name] + w2 * two[name]) / total
        assert relative_error(found, expected) <= EXACT, name


def test_one_that_corrects_and_one_that_does_not(load: Load, tmp_path: Path) -> None:
    one, correction = trained(load, tmp_path / "one", "loftq", seed=1)
    two, _ = trained(load, tmp_path / "two", True, seed=2)
    folders = [tmp_path / "one", tmp_path / "two"]
    combine_adapters(folders, tmp_path / "out", weights=[0.5, 1.5])
    for name, found in added(load, tmp_path / "out").items():
        expected = correction[name] + 0.5 * one[name] + 1.5 * two[name]
        assert relative_error(found, expected) <= EXACT, name


def test_different_corrections_are_refused(load: Load, tmp_path: Path) -> None:
    trained(load, tmp_path / "one", "loftq", seed=1)
    trained(load, tmp_path / "two", "loftq", seed=1, r=2)
    out = tmp_path / "out"
    with pytest.raises(AdapterError, match="start from different corrections of the quantized"):
        combine_adapters([tmp_path / "one", tmp_path / "two"], out)
    command = ["adapter", "combine", *map(str, (tmp_path / "one", tmp_path / "two"))]
    assert main([*command, "--output", str(out)]) == 2
    assert not out.exists()


def converted(folder: Path) -> Path:
    convert_adapter(folder, folder.parent / "plain")
    return folder.parent / "plain"


def without_the_unconverted(folder: Path) -> Path:
    shutil.copytree(folder, folder.parent / "plain")
    shutil.rmtree(folder.parent / "plain" / own_form.FOLDER)
    return folder.parent / "plain"


@pytest.mark.parametrize("lose", [converted, without_the_unconverted])
def test_a_correction_that_can_no_longer_be_told_is_taken_whole_and_once(
    load: Load, tmp_path: Path, lose
) -> None:
    one, correction = trained(load, tmp_path / "one", "loftq", seed=1)
    two, _ = trained(load, tmp_path / "two", True, seed=2)
    plain = lose(tmp_path / "one")
    for folders, weights in (([plain, plain], None), ([plain], [0.5]), ([plain, "one"], None)):
        paths = [tmp_path / folder for folder in folders]
        with pytest.raises(AdapterError, match="correction of a quantized base"):
            combine_adapters(paths, tmp_path / "out", weights=weights)
    combine_adapters([plain, tmp_path / "two"], tmp_path / "out")
    for name, found in added(load, tmp_path / "out").items():
        assert relative_error(found, correction[name] + one[name] + two[name]) <= EXACT, name


@pytest.mark.parametrize("how", STARTS)
def test_how_far_a_result_is_from_what_was_trained_is_told(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    init, config = STARTS[how]
    trained(load, tmp_path / "one", init, seed=1, **config)
    form = json.loads((tmp_path / "one" / own_form.FOLDER / own_form.FILE).read_text())
    largest = max(error["plain_difference"] for error in form["start_errors"].values())
    assert (largest > 0) is (how != "loftq")  # one iteration takes nothing out of the base
    out = tmp_path / "out"
    command = ["adapter", "convert", str(tmp_path / "one"), "--to", "lora", "--output", str(out)]
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    card = " ".join((out / "README.md").read_text().split())
    assert ("not quite the model that was trained" in said) is (largest > 0)
    assert (f"max {100 * largest:.3f} %" in card) is (largest > 0)
    written = combine_adapters([tmp_path / "one"], tmp_path / "again")
    assert written.to_json()["start_difference"] == largest
