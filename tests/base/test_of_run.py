"""A run's adapter comes together with the base that it was trained on, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lorakit
from lorakit.base import hub, of_run
from lorakit.base.checkpoint import read_entries
from lorakit.base.fingerprint import PIECE_BYTES, SAMPLED_PIECES, checkpoint_sha256
from lorakit.base.of_run import base_of_run, identity_of, pinned, write_identity
from lorakit.cli import main
from lorakit.cli.merge import merge_run
from lorakit.errors import ModelError
from lorakit.finetune import evaluate_run
from lorakit.recipe import BaseSection
from lorakit.run_folder import RunFolder
from lorakit.ship.serving import load_run
from tests import tiny


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on a base of its own, beside it."""
    base = tiny.folder(tmp_path / "base")
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": str(base), "dtype": "float32", "device": "cpu"},
            "adapter": {"r": 2},
            "data": {"train": str(tmp_path / "rows.jsonl")},
            "train": {"max_steps": 1, "batch_size": 2},
            "output": {"dir": str(tmp_path / "run")},
        }
    )
    return lorakit.finetune(recipe).run


def test_another_base_in_the_same_place_is_refused(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = run.parent / "merged"
    merge_run(run, output)
    shutil.rmtree(output)
    tiny.model(seed=5).save_pretrained(run.parent / "base")
    for use in (load_run, evaluate_run, lambda path: merge_run(path, output)):
        with pytest.raises(
            ModelError, match=r"was trained on: its weights had the SHA-256 \w{12}, now"
        ):
            use(run)
    assert main(["merge", str(run), "--output", str(output)]) == 2
    assert "train again" in capfd.readouterr().err
    assert not output.exists()


def test_another_config_is_refused_and_who_wrote_it_is_not_looked_at(run: Path) -> None:
    path = run.parent / "base" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"transformers_version": "0", "torch_dtype": "float32"}))
    load_run(run)
    path.write_text(json.dumps(values | {"rms_norm_eps": 0.1}))
    with pytest.raises(ModelError, match=r"its config\.json had"):
        load_run(run)


def test_a_run_without_a_record_is_used_and_said_not_to_be_checked(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "base.json").unlink()
    load_run(run)
    assert "cannot be checked" in caplog.text
    (run / "base.json").write_text("{")
    with pytest.raises(lorakit.RunError, match=r"base\.json cannot be read"):
        load_run(run)


def test_a_hub_id_stays_at_the_commit_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {None: "a" * 40}

    def snapshot_download(model, *, revision, allow_patterns, ignore_patterns) -> str:
        commit = heads.get(revision, revision)
        folder = tmp_path / "snapshots" / commit
        if not folder.exists():
            tiny.folder(folder, seed=ord(commit[0]))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    run, base = RunFolder(tmp_path), BaseSection(model="org/model")
    recipe = lorakit.parse_recipe({"base": {"model": "org/model"}, "data": {"train": "x"}})
    assert pinned(run, base) == base
    write_identity(run, base)
    heads[None] = "b" * 40  # the branch moves on
    assert identity_of(base).commit == "b" * 40
    assert base_of_run(run, recipe).revision == "a" * 40
    assert pinned(run, BaseSection(model="org/other")).revision is None
    monkeypatch.setattr(of_run, "checkpoint_sha256", lambda folder: "0")
    with pytest.raises(ModelError, match=r"its weights had the SHA-256 .*, now 0 "):
        base_of_run(run, recipe)


def test_a_checkpoint_is_known_by_its_tensors_not_by_its_files(tmp_path: Path) -> None:
    weight = torch.randn(4, SAMPLED_PIECES * PIECE_BYTES)
    tensors = {"a": weight, "b": torch.randn(3)}
    seen = set()
    for name, changed in (
        ("same", tensors),
        ("first", tensors | {"a": weight + torch.eye(*weight.shape)[:1]}),
        ("all", tensors | {"a": weight * 1.001}),
        ("small", tensors | {"b": tensors["b"] * torch.tensor([1, 1, 2])}),
        ("dtype", tensors | {"b": tensors["b"].double()}),
        ("name", {"a": weight, "c": tensors["b"]}),
    ):
        (tmp_path / name).mkdir()
        save_file(changed, tmp_path / name / "model.safetensors")
        seen.add(checkpoint_sha256(tmp_path / name))
    assert len(seen) == 6
    split = tmp_path / "split"
    split.mkdir()
    for name, tensor in tensors.items():
        save_file({name: tensor}, split / f"{name}.safetensors")
    places = {"weight_map": {name: f"{name}.safetensors" for name in tensors}}
    (split / "model.safetensors.index.json").write_text(json.dumps(places))
    assert load_file(split / "a.safetensors").keys() <= read_entries(split).keys()
    assert checkpoint_sha256(split) == checkpoint_sha256(tmp_path / "same")
