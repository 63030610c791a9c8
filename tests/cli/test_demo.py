"""`lorakit demo` goes the whole way, tells it, and fails when what it claims does not hold."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lorakit import builtin
from lorakit.cli import demo, main
from lorakit.cli.claims import Claim
from lorakit.errors import RunError, VerificationError
from lorakit.recipe.read import load_recipe


@dataclass(frozen=True)
class Shown:
    """What a run of the demo came to."""

    exit_code: int
    out: str
    err: str
    folder: Path


def small_sets(folder: Path) -> Path:
    """Sets in the shape of the built-in ones that a few steps can learn."""
    folder.mkdir()
    sizes = {"train": 60, "in_domain": 24, "out_of_domain": 24, "retention": 24, "general": 8}
    first = 0
    for name, size in sizes.items():
        rows = []
        for n in range(first, first + size):
            question = f"{name} patient {n} has a cough. Write the note."
            answer = f"Reason: cough of patient {n}\nSafety: return at once if worse"
            rows.append(
                {
                    "messages": [
                        {"role": "user", "content": question},
                        {"role": "assistant", "content": answer},
                    ]
                }
            )
        first += size
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def go(folder: Path) -> Shown:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        exit_code = main(["demo", "--output", str(folder)])
    return Shown(exit_code, out.getvalue(), err.getvalue(), folder)


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """The demo's recipe, shortened, on small sets."""
    folder = tmp_path_factory.mktemp("demo")
    sets = small_sets(folder / "data")
    values = yaml.safe_load(demo.RECIPE.read_text(encoding="utf-8"))
    values["train"] = {"max_steps": 24, "batch_size": 8, "learning_rate": 4e-3}
    values["evaluate"] |= {"max_generated": 24, "max_new_tokens": 24}
    recipe = folder / "demo.yaml"
    recipe.write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin, "data_folder", lambda: sets)
        patch.setattr(demo, "RECIPE", recipe)
        patch.setattr(demo, "MAX_NEW_TOKENS", 24)
        # Claims are about the real data; tests/cli/test_claims.py holds them to account.
        patch.setattr(demo, "claims", lambda evaluation: [Claim("this is a test", True)])
        yield patch


@pytest.fixture(scope="module")
def shown(patched: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return go(tmp_path_factory.mktemp("run") / "demo")


def test_it_goes_the_whole_way_and_names_the_command_of_each_step(shown: Shown) -> None:
    assert shown.exit_code == 0, shown.err
    at = 0
    for landmark in (
        "$ lorakit new demo.yaml --template demo",
        "1. Plan",
        "$ lorakit plan demo.yaml",
        "321,920 trained",
        "2. Check",
        "$ lorakit check demo.yaml",
        "\u27e6Reason: cough of patient",
        "3. Before",
        "in_domain patient 60 has a cough",
        "wanted:",
        "4. Train",
        f"$ lorakit train demo.yaml --output {shown.folder}",
        "finished after 24 steps",
        "5. Prove",
        f"$ lorakit evaluate {shown.folder}",
        "in_domain: better",
        "retention: ",
        "[holds] this is a test",
        "6. Side by side",
        "out_of_domain patient",
        "tuned\nReason:",
        "7. Merge",
        f"wrote {shown.folder / 'merged'}",
        "logits in float32 differ by",
        "8. Talk",
        "you:",
        "in_domain patient 60",
        "/reset",
        "in_domain patient 61",
        "Done",
        str(shown.folder / "report.html"),
        "$ lorakit new recipe.yaml",
        "$ lorakit check recipe.yaml",
        "$ lorakit train recipe.yaml",
    ):
        found = shown.out.find(landmark, at)
        assert found >= 0, f"{landmark!r} is not shown, or not in its place:\n{shown.out[at:]}"
        at = found
    assert "step 24 of 24" in shown.err and "step 24 of 24" not in shown.out


def test_what_it_leaves_behind_is_a_run_like_any_other(shown: Shown) -> None:
    assert load_recipe(shown.folder / "recipe.yaml").base.model == "builtin"
    verdicts = json.loads((shown.folder / "evaluation.json").read_text())
    assert {"in_domain", "out_of_domain", "retention"} == verdicts.keys()
    assert (shown.folder / "merged" / "model.safetensors").is_file()
    assert (shown.folder / "report.html").is_file()


def test_a_finished_demo_is_not_gone_through_again(shown: Shown) -> None:
    again = go(shown.folder)
    assert again.exit_code == 2 and again.out == ""
    assert "holds a finished demo" in again.err and f"lorakit chat {shown.folder}" in again.err
    assert "--output" in again.err


@pytest.mark.slow
def test_a_merge_that_differs_fails_and_is_gone_on_from(
    shown: Shown, patched: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def differing(*_: object) -> None:
        raise VerificationError("the logits differ")

    with patched.context() as patch:
        patch.setattr(demo, "merge_run", differing)
        failed = go(tmp_path / "demo")
    assert failed.exit_code == 1 and "error: the logits differ" in failed.err
    assert "Done" not in failed.out
    resumed = go(tmp_path / "demo")
    assert resumed.exit_code == 0, resumed.err
    assert "was interrupted: it goes on from there" in " ".join(resumed.out.split())
    assert "Done" in resumed.out


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused = go(tmp_path)
    assert refused.exit_code == 2 and "is not empty" in refused.err
    assert refused.out == ""


def test_a_claim_that_does_not_hold_fails() -> None:
    demo.demand_proof([Claim("the loss falls", True)])
    with pytest.raises(RunError, match="does not show what it should: the form is right"):
        demo.demand_proof([Claim("the loss falls", True), Claim("the form is right", False)])
