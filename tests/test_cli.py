"""The command line: help, exit codes, one JSON object on stdout, the whole way on a tiny model."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lorakit import cli, errors
from lorakit.cli import main, new
from lorakit.cli.new import template_names
from lorakit.cli.train import show_next
from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.recipe import load_recipe, recipe_schema
from lorakit.recipe.text import parse_text
from lorakit.report.files import read_run
from lorakit.report.numbers import facts_of
from lorakit.sizes import size

VERBS = (
    "demo",
    "advise",
    "new",
    "check",
    "plan",
    "train",
    "evaluate",
    "compare",
    "report",
    "chat",
    "merge",
    "quantize",
    "adapter",
)
GROUPS = {"adapter": ("info", "convert", "combine")}
COMMANDS = [f"{verb} {below}".strip() for verb in VERBS for below in GROUPS.get(verb, ("",))]


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example:" in shown
    assert f"  lorakit {verb} " in shown


def test_the_verbs_are_those(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out.partition("Commands:")[2]
    assert tuple(line.split()[0] for line in shown.strip().splitlines()) == VERBS


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_no_line_of_the_list_of_verbs_is_cut(
    group: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*group.split(), "--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].strip().splitlines()
    assert len(listed) == len(GROUPS.get(group, VERBS))
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("name", template_names())
def test_every_template_is_a_recipe_with_comments(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    assert main(["new", str(path), "--template", name]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert load_recipe(path).output.dir == f"runs/{name}"
    jsonschema.validate(parse_text(text, str(path))[0], recipe_schema())


@pytest.mark.parametrize("name", template_names())
def test_the_commands_of_a_new_recipe_are_its_own(name: str, tmp_path: Path) -> None:
    path = tmp_path / "wards of mine.yaml"
    assert main(["new", str(path), "--template", name]) == 0
    text = path.read_text(encoding="utf-8")
    for template in (*template_names(), "recipe"):
        assert f"{template}.yaml" not in text and f"runs/{template}" not in text
    quoted = shlex.quote(str(path))
    assert f"lorakit train {quoted}" in text
    original = (new.TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8")
    assert parse_text(text, "a")[0] == parse_text(original, "b")[0]


def test_templates_are_the_recipes_of_the_repository() -> None:
    recipes = Path(cli.__file__).parents[2] / "recipes"
    assert sorted(path.stem for path in recipes.glob("*.yaml")) == template_names()
    assert new.DEFAULT_TEMPLATE in template_names()


def test_the_schema_goes_to_stdout_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()
    path = tmp_path / "schema.json"
    assert main(["new", str(path), "--schema"]) == 0
    assert json.loads(path.read_text()) == recipe_schema()


def _raise(error: BaseException) -> Any:
    def command(*_: object, **__: object) -> None:
        raise error

    return command


LORAKIT_ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.LorakitError)
    and kind is not errors.InterruptionError
]


@pytest.mark.parametrize("kind", LORAKIT_ERRORS, ids=lambda kind: kind.__name__)
def test_errors_raised_on_purpose_are_one_line_and_an_exit_code(
    kind: type[errors.LorakitError],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(new, "_template", _raise(kind("what, possible, remedy")))
    assert main(["new", "x.yaml"]) == (2 if issubclass(kind, errors.InputError) else 1)
    assert capsys.readouterr().err == "error: what, possible, remedy\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_stops_a_command_is_not_told_of_an_error(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "_template", _raise(errors.InterruptionError("stopped", number)))
    assert main(["new", "x.yaml"]) == code
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("number", sorted(cli.REFUSALS))
def test_what_the_operating_system_refuses_is_no_bug(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "_template", _raise(OSError(number, os.strerror(number), "place")))
    assert main(["new", "x.yaml"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: place: {os.strerror(number)}. ")
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "error",
    [RuntimeError("odd"), OSError(errno.ENOENT, "gone", "place"), AssertionError()],
    ids=repr,
)
def test_a_bug_shows_its_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "_template", _raise(error))
    assert main(["new", "x.yaml"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "this is a bug in lorakit" in shown


def test_an_interrupt_exits_with_130_and_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "_template", _raise(KeyboardInterrupt()))
    assert main(["new", "x.yaml"]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_running_out_of_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "_template", _raise(MemoryError()))
    assert main(["new", "x.yaml"]) == 1
    assert "out of memory" in capsys.readouterr().err


def test_as_a_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lorakit", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lorakit ")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (430 << 20, "430 MiB"),
        (3 << 29, "1.50 GiB"),
        (1 << 50, "1,048,576.00 GiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a recipe and the run that `lorakit train` made of it."""
    folder = tmp_path_factory.mktemp("cli")
    rows = [
        {"prompt": f"What helps against complaint {n}?", "completion": f"Rest, {n} days."}
        for n in range(24)
    ]
    for name, part in (("train", rows[:16]), ("test", rows[16:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text)
    recipe = {
        "base": {"model": str(tiny_folder), "quantization": "nf4", "device": "cpu"},
        "adapter": {"r": 4, "use_dora": True},
        "data": {"train": str(folder / "train.jsonl"), "validation": 0.25},
        "train": {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2},
        "evaluate": {"in_domain": str(folder / "test.jsonl"), "max_new_tokens": 8},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["train", str(folder / "recipe.yaml"), "--output", str(folder / "run")]
    assert main([*arguments, "--set", "train.max_steps=4"]) == 0
    return folder


def run_json(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run a command with --json; its stdout, all of it, must be one JSON object."""
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert isinstance(shown, dict)
    return shown


def test_the_run_folder_is_as_promised(trained: Path) -> None:
    run = trained / "run"
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "recipe.yaml",
        "plan.json",
        "metrics.jsonl",
        "checkpoints",
        "adapter",
        "evaluation.json",
        "answers.jsonl",
        "data.json",
        "report.html",
    }
    assert load_recipe(run / "recipe.yaml").train.max_steps == 4
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    predicted = json.loads((run / "plan.json").read_text())
    assert predicted["steps"] == 4
    assert predicted["tokens"] == lines[-1]["tokens"]
    assert predicted["trained_tokens"] == lines[-1]["trained_tokens"]


def test_the_adapter_can_be_used_alone(trained: Path) -> None:
    from transformers import AutoTokenizer

    run = trained / "run"
    alone, kept = (AutoTokenizer.from_pretrained(run / name) for name in ("adapter", "tokenizer"))
    assert alone.chat_template == kept.chat_template is not None
    chat = [{"role": "user", "content": "What helps?"}]
    assert alone.apply_chat_template(chat) == kept.apply_chat_template(chat)
    names = {path.name for path in (run / "adapter").iterdir()}
    assert names >= {path.name for path in (run / "tokenizer").iterdir()}


def test_check_json(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = run_json(["check", str(trained / "recipe.yaml")], capfd)
    assert shown["rows"] == {"read": 12, "kept": 12, "dropped": 0}
    assert 0 < shown["trained_tokens"] < shown["tokens"]
    for finding in shown["findings"]:
        assert set(finding) >= {"id", "severity", "message", "where"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.max_length=4", "rows would be dropped"),
        ("evaluate.in_domain={rows}", "in_domain: all "),
    ],
)
def test_check_reports_data_that_are_refused(
    override: str, message: str, trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = trained / "train.jsonl"
    arguments = ["check", str(trained / "recipe.yaml"), "--set", override.format(rows=rows)]
    assert main([*arguments, "--json"]) == 1
    shown = json.loads(capfd.readouterr().out)
    (error,) = [finding for finding in shown["findings"] if finding["severity"] == "error"]
    assert error["id"] == "data-refused" and message in error["message"]
    assert shown["rows"] is None
    assert main(arguments) == 1
    assert "error: " in capfd.readouterr().out


def test_check_tells_rows_that_cannot_be_used_and_goes_on(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (trained / "train.jsonl").read_text().splitlines()]
    empty = [{"prompt": f"Question {i}?", "completion": ""} for i in range(2)]
    train = tmp_path / "some_empty.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in [*empty, *rows]))
    arguments = [str(trained / "recipe.yaml"), "--set", f"data.train={train}"]
    for _ in range(2):  # what was read once is refused again
        assert main(["check", *arguments, "--json"]) == 1
        shown = json.loads(capfd.readouterr().out)
        first, *others = shown["findings"]
        assert first["id"] == "data-refused" and first["severity"] == "error"
        assert f"2 of {len(rows) + 2} rows cannot be used" in first["message"]
        assert "some_empty.jsonl:1" in first["message"]
        kept = [shown["sets"][name]["kept"] for name in ("train", "validation")]
        assert others and sum(kept) == len(rows)
    assert main(["train", *arguments, "--output", str(tmp_path / "run")]) == 2
    assert "2 of" in capfd.readouterr().err


def test_check_shows_what_is_trained(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(trained / "recipe.yaml"), "--show", "2"]) == 0
    shown = capfd.readouterr().out
    assert shown.count("\u27e6Rest, ") == 2
    assert "train: 12 rows read, 12 kept, 0 dropped" in shown
    assert "\x1b" not in shown  # no colour codes outside a terminal


def test_rows_and_their_faults_cannot_steer_the_terminal(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    asked = [
        {"prompt": f"What \x1b]0;mine\x07 {n}?", "completion": "Rest.\x1b[2J"} for n in range(12)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))
    check = ["check", str(trained / "recipe.yaml"), "--set", f"data.train={rows}"]
    assert main(check) == 0
    shown = capfd.readouterr()
    assert "\u27e6Rest.\u241b[2J" in shown.out and "\x1b" not in shown.out + shown.err
    assert main(["check", str(tmp_path / "\x1b[2Jno.yaml")]) == 2
    assert "\x1b" not in capfd.readouterr().err


def test_evaluate_repeats_what_training_found(
    trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written = json.loads((trained / "run" / "evaluation.json").read_text())
    shown = run_json(["evaluate", str(trained / "run")], capfd)
    assert shown == written
    loss = shown["in_domain"]["metrics"]["loss"]
    assert set(loss) >= {"base", "tuned", "difference", "interval"}
    assert loss["tuned"] < loss["base"]
    assert shown["in_domain"]["metrics"]["token_f1"]["higher_is_better"] is True
    lines = (trained / "run" / "answers.jsonl").read_text("utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["index"] for answer in answers] == list(range(8))
    assert {answer["set"] for answer in answers} == {"in_domain"}
    assert [answer["reference"] for answer in answers] == [
        f"Rest, {n} days." for n in range(16, 24)
    ]
    assert all(set(answer["scores"]) == {"token_f1", "rouge_l"} for answer in answers)


def test_evaluate_says_what_it_found(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained / "run")]) == 0
    shown = capfd.readouterr().out
    assert "in_domain: too few examples to tell by loss (8 examples)" in shown
    assert "no difference" not in shown
    written = json.loads((trained / "run" / "evaluation.json").read_text())
    assert written["in_domain"]["verdict"] == "no difference"
    assert shown.splitlines()[-1] == f"report  {trained / 'run' / 'report.html'}"


@pytest.mark.parametrize("on_a_terminal", [False, True])
def test_training_ends_with_what_to_do_next(
    on_a_terminal: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path("runs") / ("a long name" * 20)
    monkeypatch.setattr("sys.stdout.isatty", lambda: on_a_terminal)
    show_next(run)
    lines = dict(line.split("  ", 1) for line in capfd.readouterr().out.splitlines())
    told = {what: value.strip() for what, value in lines.items()}
    assert told == {
        "report": f"{run}/report.html",
        "adapter": f"{run}/adapter",
        "talk to it": f"lorakit chat '{run}'",
        "merge it": f"lorakit merge '{run}' --output '{run}/merged'",
    }


def test_train_and_check_say_which_rows_serve_as_in_domain(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
    recipe["evaluate"] = {"metrics": ["loss"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [str(tmp_path / "recipe.yaml")]
    assert main(["check", *arguments]) == 0
    shown = capfd.readouterr().out
    assert "in_domain (the validation rows): 4 rows read" in shown
    assert "validation: 4 rows read" in shown
    assert main(["train", *arguments, "--output", str(tmp_path / "run")]) == 0
    told = capfd.readouterr()
    shown = told.out
    assert "in_domain (the validation rows): too few examples to tell by loss (4 exam" in shown
    assert "a verdict needs 20" in told.err  # before anything is trained
    assert f"lorakit merge {tmp_path / 'run'} --output" in shown.splitlines()[-1]
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["in_domain"]["same_as"] == "validation"


def test_check_warns_of_sets_too_small_for_a_verdict(
    trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = run_json(["check", str(trained / "recipe.yaml")], capfd)
    (few,) = [one for one in shown["findings"] if one["id"] == "too-few-to-tell"]
    assert few["severity"] == "warning"
    assert few["message"].startswith(
        f"in_domain: 8 rows are there to measure, but a verdict needs {MIN_EXAMPLES}"
    )
    assert "name more rows as evaluate.in_domain" in few["message"]


def test_the_report_of_a_run_is_written_again(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = trained / "run"
    shown = run_json(["report", str(run), "--output", str(tmp_path / "page.html")], capfd)
    assert shown == {"report": str(tmp_path / "page.html"), "runs": [str(run)]}
    assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()
    page = (run / "report.html").read_text("utf-8")
    assert "Too few examples tell what the adapter does" in page
    assert "8 answered examples" in page


def test_runs_are_compared_on_one_page(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained / "run", other)
    page = tmp_path / "page.html"
    arguments = ["report", str(trained / "run"), str(other), "--output", str(page)]
    assert run_json(arguments, capfd)["runs"] == [str(trained / "run"), str(other)]
    assert "2 runs, each held against its own base." in page.read_text("utf-8")
    page.write_text("my own notes")
    assert main(arguments) == 2
    assert page.read_text() == "my own notes"
    assert main(["report", str(tmp_path / "nothing")]) == 2
    (other / "plan.json").write_text("{")
    assert main(["report", str(other)]) == 1


def test_merge_writes_a_folder_that_transformers_loads(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = tmp_path / "merged"
    shown = run_json(["merge", str(trained / "run"), "--output", str(merged)], capfd)
    assert shown["logits"]["error"] <= shown["logits"]["bound"] < shown["logits"]["effect"]
    AutoModelForCausalLM.from_pretrained(merged)
    assert AutoTokenizer.from_pretrained(merged).chat_template
    assert shown["weights"] is None and shown["quantize"] is None
    assert main(["merge", str(trained / "run"), "--output", str(merged)]) == 2


def test_merges_that_are_not_faithful_say_what_became_of_the_weights(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ["merge", str(trained / "run")]
    packed = ["--output", str(tmp_path / "packed"), "--quantize", "nf4", "--block-size", "128"]
    assert main([*run, *packed, "--json"]) == 0
    printed = capfd.readouterr()
    assert ".tmp-" not in printed.out + printed.err  # the folder is staged under another name
    shown = json.loads(printed.out)
    assert (shown["into"], shown["quantize"]) == ("original", "nf4")
    assert shown["logits"]["bound"] is None
    weights = shown["weights"]
    assert 0.08 < weights["noise"] < 0.12 and weights["change"] > 0
    assert weights["retained"] == pytest.approx(1, abs=5 * weights["retained_standard_error"])
    assert weights["retained_worst"]["parameter"] in weights["by_parameter"]
    assert len(weights["by_parameter"]) == 14
    values = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert values["quantization_config"]["load_in_4bit"] is True
    again = [*run, "--output", str(tmp_path / "again"), "--into"]
    assert main([*again, "dequantized", "--quantize", "nf4"]) == 2
    assert "rounds a change of a few percent or less away" in capfd.readouterr().err
    assert not (tmp_path / "again").exists()
    assert main([*again, "original"]) == 0
    told = capfd.readouterr().out
    assert "merged into the original weights; the adapter was trained on those in nf4" in told
    assert "weights differ by" in told and "of that is in what was written" in told
    assert "not bounded" in told


def test_resuming_a_finished_run_changes_nothing(trained: Path) -> None:
    adapter = trained / "run" / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    arguments = ["train", str(trained / "recipe.yaml"), "--output", str(trained / "run")]
    assert main([*arguments, "--set", "train.max_steps=4", "--resume"]) == 0
    assert adapter.read_bytes() == before


@pytest.mark.parametrize(
    "moment",
    ["training", *(pytest.param(m, marks=pytest.mark.slow) for m in ("loading", "evaluation"))],
)
def test_terminal_and_page_tell_one_peak_of_a_resumed_run(
    moment: str, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The process before took more, in its steps, when it loaded or when it evaluated."""
    run, most = tmp_path / "run", 7 << 30
    shutil.copytree(trained / "run", run)
    if moment == "training":
        steps = [json.loads(one) for one in (run / "metrics.jsonl").read_text().splitlines()]
        lines = [json.dumps(step | {"peak_bytes": most}) + "\n" for step in steps]
        (run / "metrics.jsonl").write_text("".join(lines))
    else:
        told = json.loads((run / "plan.json").read_text())
        told["measured"]["memory_bytes"] |= {f"{moment}_peak": most, "peak": most}
        (run / "plan.json").write_text(json.dumps(told))
    capfd.readouterr()
    resume = ["train", str(trained / "recipe.yaml"), "--output", str(run), "--resume"]
    assert main([*resume, "--set", "train.max_steps=4"]) == 0
    planned = json.loads((run / "plan.json").read_text())
    assert planned["measured"]["memory_bytes"]["peak"] == most
    expected = size(planned["memory_bytes"]["peak"])
    assert f"memory: predicted {expected}, measured 7.00 GiB" in capfd.readouterr().out
    (peak,) = [fact for fact in facts_of(read_run(run)) if fact.name == "Peak memory"]
    assert (peak.value, f"plan: {expected}" in peak.detail) == ("7.00 GiB", True)


@pytest.mark.slow
def test_a_run_says_what_was_measured_when_it_was_resumed(trained: Path, tmp_path: Path) -> None:
    run, rows = tmp_path / "run", tmp_path / "rows.jsonl"
    shutil.copytree(trained / "run", run)
    row = {"prompt": "What is elsewhere?", "completion": "Nothing."}
    rows.write_text(json.dumps(row) + "\n" + json.dumps(row | {"prompt": "What is new?"}) + "\n")
    other = ["--set", f"evaluate.out_of_domain={rows}", "--set", "train.max_steps=4"]
    resume = ["train", str(trained / "recipe.yaml"), "--output", str(run), "--resume"]
    assert main([*resume, *other]) == 0
    files = [json.loads((run / name).read_text()) for name in ("evaluation.json", "data.json")]
    assert "out_of_domain" in files[0] and "out_of_domain" in files[1]["sets"]
    assert load_recipe(run / "recipe.yaml").evaluate.out_of_domain == str(rows)
    refused = ["--set", "train.learning_rate=1", *other]
    assert main([*resume, *refused]) == 1
    assert load_recipe(run / "recipe.yaml").train.learning_rate != 1


def test_quantize_writes_a_base_that_trains(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "packed"
    shown = run_json(["quantize", str(tiny_folder), "--output", str(packed)], capfd)
    assert shown["layers"] == {"packed": 14, "left": 1}
    assert shown["bytes"]["after"] < shown["bytes"]["before"]
    assert 0.05 < shown["relative_error"]["mean"] < 0.12
    assert shown["left"].keys() == {"lm_head"}
    assert main(["quantize", str(tiny_folder), "--output", str(packed)]) == 2
    assert main(["quantize", str(packed), "--output", str(tmp_path / "again")]) == 2
    assert not (tmp_path / "again").exists()
    capfd.readouterr()
    options = ["--quantization", "int8", "--dtype", "bfloat16"]
    assert main(["quantize", str(tiny_folder), "--output", str(tmp_path / "int8"), *options]) == 0
    told = capfd.readouterr().out
    assert "14 layers in int8" in told and "not packed: lm_head (1 in all)" in told
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What is asthma?", "completion": " A disease."}\n' * 4)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"base: {{model: {packed}, quantization: checkpoint}}\n"
        f"data: {{train: {rows}, max_dropped: 0.5}}\n"
        "train: {max_steps: 1}\n"
    )
    assert run_json(["plan", str(recipe)], capfd)["memory_bytes"]["weights"] > 0
    assert main(["check", str(recipe)]) == 0
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 0
    merge = ["merge", str(tmp_path / "run"), "--output"]
    assert main([*merge, str(tmp_path / "merged")]) == 0
    assert main([*merge, str(tmp_path / "packed again"), "--quantize", "nf4"]) == 2
    assert "--original MODEL" in capfd.readouterr().err
    original = ["--original", str(tiny_folder), "--quantize", "int8"]
    shown = run_json([*merge, str(tmp_path / "packed again"), *original], capfd)
    assert shown["into"] == "original" and shown["weights"]["noise"] < 0.01
    assert main(["train", str(recipe), "--set", "base.quantization=nf4"]) == 2
    assert "base.quantization: checkpoint" in capfd.readouterr().err
