"""`builtin` and `builtin:NAME` mean what ships with lorakit everywhere; `./builtin` is a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorakit
from lorakit import builtin
from lorakit.base.load import empty_base, load_base, load_tokenizer_of
from lorakit.data.sources import read_rows
from lorakit.plan.plan import plan
from lorakit.recipe import Recipe, parse_recipe
from lorakit.run_folder import RunFolder, write_recipe
from lorakit.ship.merge_folder import merge_folder

CHAT = [{"role": "user", "content": "Is it raining?"}, {"role": "assistant", "content": "No."}]


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two built-in sets of a few rows in place of the real ones."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "in_domain"):
        rows = [{"messages": [*CHAT[:1], CHAT[1] | {"content": f"{name} {n}"}]} for n in range(8)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(builtin, "data_folder", lambda: folder)
    return folder


def recipe(tmp_path: Path, **base: Any) -> Recipe:
    return parse_recipe(
        {
            "base": {"model": "builtin", "dtype": "float32", "device": "cpu"} | base,
            "adapter": {"r": 2},
            "data": {"train": ["builtin:train"]},
            "train": {"max_steps": 1, "batch_size": 2},
            "evaluate": {"in_domain": {"path": "builtin:in_domain"}},
            "output": {"dir": str(tmp_path / "run")},
        }
    )


@pytest.mark.parametrize(
    "vocab_size",
    [
        lambda model: load_base(model)[0].config.vocab_size,
        lambda model: load_tokenizer_of(model)[1].vocab_size,
        lambda model: empty_base(model).config.vocab_size,
    ],
    ids=["load_base", "load_tokenizer_of", "empty_base"],
)
def test_the_word_is_the_built_in_base_and_a_path_is_a_folder(
    vocab_size: Callable[[Any], int],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "builtin")
    monkeypatch.chdir(tmp_path)
    own, others = 4096, 400
    assert vocab_size("builtin") == own
    assert vocab_size("./builtin") == others
    assert vocab_size(Path("builtin")) == others


def test_a_revision_of_the_built_in_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lorakit.RecipeError, match=r"base\.model is builtin"):
        recipe(tmp_path, revision="main")
    with pytest.raises(lorakit.ModelError, match="revision 'main'"):
        load_base("builtin", revision="main")


def test_rows_of_a_set_know_where_they_stand(sets: Path) -> None:
    rows = list(read_rows("builtin:train"))
    assert [dict(row.values) for row in rows] == [
        dict(row.values) for row in read_rows(sets / "train.jsonl")
    ]
    assert [row.location for row in rows] == [f"builtin:train:{n}" for n in range(1, 9)]


def test_a_set_has_its_own_format_however_it_is_named(sets: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("question,answer\nIs it late?,No.\nIs it cold?,Yes.\n")
    wanted = recipe(tmp_path)
    wanted.data.format = "prompt_completion"
    wanted.data.columns = {"prompt": "question", "completion": "answer"}
    for named in ("builtin:train", {"path": "builtin:train", "weight": 0.5}):
        wanted.data.train = [str(own), named]
        shown = lorakit.check(wanted).to_json()
        assert shown["sets"]["train"]["kept"] == 10
        assert shown["sets"]["in_domain"]["kept"] == 8


def test_an_unknown_set_lists_those_there_are(sets: Path, tmp_path: Path) -> None:
    (sets / "more.jsonl").write_text("{}\n")
    listed = "builtin:in_domain, builtin:more, builtin:train"
    with pytest.raises(lorakit.DataError, match=rf"possible: {listed}. Did you mean builtin:train"):
        list(read_rows("builtin:trian"))
    for name in ("builtin:", "builtin:../names", "builtin:train.jsonl"):
        with pytest.raises(lorakit.DataError, match=listed):
            list(read_rows(name))
    with pytest.raises(lorakit.DataError, match="only apply to a hub id"):
        list(read_rows("builtin:train", split="test"))
    wanted = recipe(tmp_path)
    wanted.data.train = "builtin:trian"
    with pytest.raises(lorakit.DataError, match="Did you mean"):  # not "not known yet"
        plan(wanted)


def test_a_file_of_ones_own_is_named_with_its_path(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sets / "train.jsonl", tmp_path / "builtin:own.jsonl")
    monkeypatch.chdir(tmp_path)
    assert len(list(read_rows("./builtin:own.jsonl"))) == 8
    with pytest.raises(lorakit.DataError, match="no built-in data set"):
        list(read_rows("builtin:own.jsonl"))


def test_names_stay_as_written_in_the_run_and_folders_do_not(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("builtin", "builtin:train"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    wanted = recipe(tmp_path)
    wanted.data.validation = "builtin"  # data have no set of that name: the folder
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    write_recipe(run, wanted)
    written = lorakit.load_recipe(run.recipe)
    assert written.base.model == "builtin"
    assert written.data.train == ["builtin:train"]
    assert written.evaluate.in_domain == wanted.evaluate.in_domain
    assert written.data.validation == str(tmp_path / "builtin")
    wanted.base.model = "./builtin"
    write_recipe(run, wanted)
    assert lorakit.load_recipe(run.recipe).base.model == str(tmp_path / "builtin")


def test_the_whole_way(sets: Path, tmp_path: Path) -> None:
    wanted = recipe(tmp_path)
    assert plan(wanted).trained_tokens is not None
    assert lorakit.check(wanted).to_json()["rows"]["kept"] == 8
    outcome = lorakit.finetune(wanted)
    assert outcome.evaluation["in_domain"].examples == 8
    adapter = outcome.run / "adapter"
    named = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named) == builtin.model_folder()  # what PEFT can load
    report = merge_folder("builtin", adapter, tmp_path / "merged")
    assert report.num_changed > 0
