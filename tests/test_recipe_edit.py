"""Changing values in a recipe's text leaves every other character as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lorakit.cli.new import TEMPLATES
from lorakit.errors import RecipeError
from lorakit.recipe import edited, load_recipe, parse_recipe, rewrite_recipe
from lorakit.recipe.edit import edit_text
from lorakit.recipe.text import parse_text

TEXT = """\
# what this is
base:
  model: builtin   # the small one
  quantization: none  # as it is
# between the sections

adapter: {r: 16, target_modules: [q_proj, v_proj]}  # in braces
data:
  train:
    - a.jsonl
    - b.jsonl
  # about the length

train:   # nothing yet
output:
  dir: runs/x"""


@pytest.mark.parametrize(
    ("changes", "old", "new"),
    [
        ({"base.quantization": "nf4"}, "quantization: none  #", "quantization: nf4  #"),
        ({"base.offload": "cpu"}, "none  # as it is\n", "none  # as it is\n  offload: cpu\n"),
        ({"adapter.r": 8}, "{r: 16,", "{r: 8,"),
        ({"adapter.target_modules": "all-linear"}, "[q_proj, v_proj]}", "all-linear}"),
        ({"adapter.use_dora": True}, "v_proj]}", "v_proj], use_dora: true}"),
        ({"data.max_length": 512}, "    - b.jsonl\n", "    - b.jsonl\n  max_length: 512\n"),
        ({"data.train": ["x", "y"]}, "train:\n    - a.jsonl\n    - b.jsonl", "train: [x, y]"),
        ({"output.dir": "a: b"}, "dir: runs/x", "dir: 'a: b'"),
        ({"evaluate.max_examples": 3}, "runs/x", "runs/x\nevaluate:\n  max_examples: 3\n"),
    ],
)
def test_only_what_was_asked_for_changes(changes: dict[str, Any], old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert edit_text(TEXT, changes, "t") == TEXT.replace(old, new)


def test_an_empty_section_gets_its_first_key() -> None:
    text = edit_text(TEXT, {"train.optim": "adamw_8bit"}, "t")
    values, _ = parse_text(text, "t")
    assert values["train"] == {"optim": "adamw_8bit"}
    assert "# nothing yet" in text
    assert edit_text("", {"base.model": "m"}, "t") == "base:\n  model: m\n"
    assert parse_text(edit_text("{}", {"base.model": "m"}, "t"), "t")[0] == {"base": {"model": "m"}}


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.yaml")), ids=lambda path: path.stem)
def test_templates_keep_their_comments(template: Path) -> None:
    before = template.read_text()
    changes = {"base.quantization": "fp4", "adapter.r": 3, "train.optim": "adamw_8bit"}
    after = edit_text(before, changes, "t")
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in after.splitlines() if "#" in line] == comments
    expected = yaml.safe_load(before)
    for name, value in changes.items():
        section, _, key = name.partition(".")
        expected.setdefault(section, {})[key] = value
    assert yaml.safe_load(after) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: &a {model: m}\nbase: *a\n", "alias"),
        ("base: 3\n", "not keys with values"),
        ("- 1\n", "keys with values"),
    ],
)
def test_what_cannot_be_changed_is_said(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        edit_text(text, {"base.model": "n"}, "t")


def test_an_aliased_value_leaves_its_anchor_alone() -> None:
    text = "adapter:\n  r: &n 8\ntrain:\n  batch_size: *n\n"
    values, _ = parse_text(edit_text(text, {"train.batch_size": 4}, "t"), "t")
    assert values == {"adapter": {"r": 8}, "train": {"batch_size": 4}}


def test_a_file_is_rewritten_and_the_old_one_kept(tmp_path: Path) -> None:
    path, other = tmp_path / "r.yaml", tmp_path / "other.yaml"
    path.write_text("base: {model: m}  # mine\ndata: {train: a.jsonl}\n")
    before = path.read_text()
    assert rewrite_recipe(path, {"adapter.r": 8}, other) == (other, None)
    assert path.read_text() == before
    assert load_recipe(other).adapter.r == 8
    written, kept = rewrite_recipe(path, {"adapter.r": 8})
    assert kept is not None
    assert (written, kept.read_text()) == (path, before)
    assert load_recipe(path).adapter.r == 8
    with pytest.raises(RecipeError, match=r"adapter\.r"):
        rewrite_recipe(path, {"adapter.r": -1})
    assert load_recipe(path).adapter.r == 8  # nothing was written


def test_a_recipe_in_memory_is_edited_and_checked() -> None:
    recipe = parse_recipe(
        {"base": {"model": "m"}, "data": {"train": "a"}, "output": {"dir": "{{x}}"}}
    )
    changed = edited(recipe, {"base.quantization": "nf4", "adapter.r": 4})
    assert (changed.base.quantization, changed.adapter.r) == ("nf4", 4)
    assert changed.output.dir == recipe.output.dir == "{x}"
    assert recipe.adapter.r == 16
    with pytest.raises(RecipeError):
        edited(recipe, {"train.optim_memory": "1GB"})


def test_what_was_kept_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    texts = [f"base: {{model: builtin}}\ndata: {{train: a.jsonl}}\nadapter: {{r: {r}}}\n"
             for r in (1, 2, 3)]  # fmt: skip
    path.write_text(texts[0])
    kept = [rewrite_recipe(path, {"adapter.r": r})[1] for r in (2, 3)]
    assert kept == [tmp_path / "recipe.yaml.bak", tmp_path / "recipe.yaml.bak1"]
    assert [*[one.read_text() for one in kept if one], path.read_text()] == texts
