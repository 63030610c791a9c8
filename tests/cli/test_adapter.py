"""`lorakit adapter`: words and JSON of its three verbs, on PEFT's folders and a run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.load import load_base
from lorakit.cli import main
from lorakit.recipe import LoraConfig
from tests import tiny
from tests.adapters.bases import logits, perturb
from tests.tolerances import relative_error

VERBS = ("info", "convert", "combine")


def adapter(folder: Path, *, seed: int = 1, **options: Any) -> Path:
    model = tiny.model("llama")
    attach_adapter(model, LoraConfig(**({"r": 4} | options)))
    perturb(model, seed=seed)
    save_adapter(model, folder)
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapter", verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example:" in shown and f"  lorakit adapter {verb} " in shown


def test_info_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter(tmp_path / "one", use_rslora=True, rank_pattern={"q_proj": 2})
    assert main(["adapter", "info", str(tmp_path / "one")]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert "kind            LoRA, rsLoRA scaling" in lines
    assert "layers          14" in lines
    rows = [line.split() for line in lines if line.startswith(("q_proj", "up_proj"))]
    assert [row[:4] for row in rows] == [
        ["q_proj", "2", "32x32", "2"],
        ["up_proj", "2", "64x32", "4"],
    ]
    assert all(len(line) <= 80 for line in lines if "proj" in line and "targets" not in line)
    assert main(["adapter", "info", str(tmp_path / "one"), "--layers"]) == 0
    assert capsys.readouterr().out.count("model.layers.1.") == 7


def test_a_folder_that_is_not_there_is_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, empty = tmp_path / "nothere", tmp_path / "empty"
    empty.mkdir()
    assert main(["adapter", "info", str(missing)]) == 2
    assert f"{missing} does not exist" in capsys.readouterr().err
    assert main(["adapter", "info", str(empty)]) == 2
    assert f"{empty} holds no adapter_config.json" in capsys.readouterr().err


def test_info_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter(tmp_path / "one", use_dora=True)
    assert main(["adapter", "info", str(tmp_path / "one"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["kind"] == "dora" and len(values["layers"]) == 14
    assert {group["name"] for group in values["groups"]} >= {"q_proj", "down_proj"}


def test_info_warns_of_what_its_norms_do_not_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapter(tmp_path / "one", use_dora=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "pissa"}))
    assert main(["adapter", "info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "norms are those of its low-rank part" in shown
    assert "pissa changes the base when it is loaded" in shown


def test_combine_and_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two", seed=2)
    out = tmp_path / "both"
    command = ["adapter", "combine", f"{one}:0.5", str(two), "--output", str(out)]
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["rank"] == {"least": 8, "most": 8} and values["error"] < 1e-6
    assert main(command) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    small = tmp_path / "small"
    convert = ["adapter", "convert", str(out), "--to", "rslora", "--output", str(small)]
    assert main([*convert, "--rank", "3", "--dtype", "bfloat16"]) == 0
    shown = capsys.readouterr().out
    assert f"wrote {small}: The same change in another form. Cut to rank 3 by SVD." in shown
    assert "14 layers, rank 8 -> 3," in shown and "relative error 0." in shown
    assert load_adapter(tiny.model("llama"), small).config.use_rslora


def test_a_folder_may_have_a_colon_in_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapter(tmp_path / "one:2")
    out = str(tmp_path / "out")
    assert main(["adapter", "combine", str(folder), "--output", out, "--json"]) == 0
    assert main(["adapter", "combine", f"{folder}:3", "--output", f"{out}3", "--json"]) == 0
    capsys.readouterr()
    assert main(["adapter", "info", f"{out}3", "--json"]) == 0
    tripled = json.loads(capsys.readouterr().out)["layers"][0]["norm"]
    assert main(["adapter", "info", out, "--json"]) == 0
    assert tripled == pytest.approx(3 * json.loads(capsys.readouterr().out)["layers"][0]["norm"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["info", "nowhere"], "nowhere does not exist"),
        (["combine", "nowhere:x", "--output", "out"], "'x' is no weight"),
        (["combine", "nowhere:nan", "--output", "out"], "'nan' is no weight"),
        (["combine", "{one}", "--output", "out", "--rank", "2", "--max-error", "0.1"], "were both"),
        (["convert", "{one}", "--output", "out", "--to", "lora", "--base", "b"], "is no DoRA"),
        (["convert", "{one}", "--output", "out"], "Missing option '--to'"),
    ],
)
def test_wrong_input_exits_with_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter(tmp_path / "one")
    assert main(["adapter", *(text.format(one="one") for text in arguments)]) == 2
    assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_the_base_of_a_run_is_that_of_its_recipe(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A DoRA trained on NF4: what it changes is held against the packed weights."""
    model, _ = load_base(tiny_folder, quantization="nf4", block_size=32, device="cpu")
    attach_adapter(model, LoraConfig(r=2, use_dora=True))
    perturb(model)
    run = tmp_path / "run"
    save_adapter(model, run / "adapter")
    recipe = {
        "base": {"model": str(tiny_folder), "quantization": "nf4", "block_size": 32},
        "adapter": {"r": 2, "use_dora": True},
        "data": {"train": "rows.jsonl"},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "choices.json").write_text('{"dtype": "float32"}')
    out = tmp_path / "out"
    command = ["adapter", "convert", str(run), "--to", "lora", "--output", str(out), "--json"]
    assert main([*command, "--max-error", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] < 1e-6
    plain, _ = load_base(tiny_folder, quantization="nf4", block_size=32, device="cpu")
    load_adapter(plain, out)
    assert relative_error(logits(plain), logits(model)) < 1e-5
