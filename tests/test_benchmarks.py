"""Benchmarks run for hours: what they ask of the command line is checked here, in no time."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lorakit.engine.flops import AdaptedShape, step_flops
from lorakit.kernels import dispatch
from lorakit.recipe import load_recipe, parse_recipe
from lorakit.train.batches import StepBatches

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def test_the_runs_that_are_bad_on_purpose_are_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    proof = importlib.import_module("proof")
    runs = proof.options_of_runs(tmp_path / "few.jsonl", tmp_path / "mixed.jsonl")
    recipes = {title: load_recipe(ROOT / proof.RECIPE, options) for title, options in runs.items()}
    assert set(recipes) == {"as it is", "over-trained", "shuffled answers"}
    for recipe in recipes.values():
        assert isinstance(recipe.evaluate.primary, dict)
        assert recipe.evaluate.primary["in_domain"] == "content"
        assert recipe.evaluate.primary["retention"] == "loss"


def test_no_row_keeps_its_answer_when_answers_are_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    proof = importlib.import_module("proof")
    rows = [
        {"order": ["a", "b"][n % 2], "messages": [{"content": f"q{n}"}, {"content": f"a{n}"}]}
        for n in range(20)
    ]
    shuffled = proof.with_answers_shuffled(rows)
    for row in shuffled:
        question, answer = (message["content"] for message in row["messages"])
        assert question[1:] != answer[1:]
        assert int(question[1:]) % 2 == int(answer[1:]) % 2  # of the same order of sections
    answers = sorted(row["messages"][-1]["content"] for row in shuffled)
    assert answers == sorted(row["messages"][-1]["content"] for row in rows)


def test_a_section_names_the_command_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    page = importlib.import_module("page")
    monkeypatch.setattr("sys.argv", ["/elsewhere/benchmarks/merges.py", "--steps", "3", "a b"])
    assert page.command() == "python benchmarks/merges.py --steps 3 'a b'"
    for path in sorted(BENCHMARKS.glob("*.py")):
        # A command spelled out would leave out the options that were given.
        assert "Written by `python benchmarks/" not in path.read_text("utf-8"), path.name


def test_a_command_is_recorded_without_places(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--keep", "a folder", "--only", "x", "--workdir=elsewhere", "--pairs", "3"]
    monkeypatch.setattr("sys.argv", ["/somewhere/five_ways.py", *given])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    page = importlib.import_module("page")
    assert page.command() == "python benchmarks/five_ways.py --only x --pairs 3"


def test_a_file_that_is_read_is_named_as_seen_from_the_checkout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beside = BENCHMARKS.parents[1] / "data" / "rows.jsonl"
    monkeypatch.setattr("sys.argv", ["/somewhere/data_peers.py", "--data", str(beside)])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    page = importlib.import_module("page")
    assert page.command() == "python benchmarks/data_peers.py --data ../data/rows.jsonl"


def test_lorakit_sees_in_each_step_the_rows_the_peers_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    workload, ours = (importlib.import_module(name) for name in ("workload", "sft_ours"))
    rows = workload.make_rows("short", 3, 512)
    placed = ours.in_order(rows)
    batches = StepBatches(placed, batch_size=8, seed=ours.SEED, token_budget=512, packed=True)
    for number, step in enumerate(workload.steps_of(rows)):
        examples = [placed[i] for i in batches.examples_of(number)]
        assert [e.input_ids.tolist() for e in examples] == [r.input_ids.tolist() for r in step]
        for example, row in zip(examples, step, strict=True):
            trained = np.where(example.loss_weights > 0, example.input_ids, -100)
            assert trained.tolist() == row.labels


def test_the_replay_has_the_products_of_a_step_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    workload, replay = (importlib.import_module(name) for name in ("workload", "replay"))
    config = workload.CONFIGS["tiny"]
    rank, piece = 4, replay.Piece(lengths=(9, 5), num_trained=11)
    with FlopCounterMode(display=False) as counter:
        replay.Replay(config, rank, piece.num_tokens).step([piece])
    counted = counter.get_flop_counts()["Global"]
    hidden, inter, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    kv = hidden // config.num_attention_heads * config.num_key_value_heads
    shapes = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    shapes += [(hidden, inter), (hidden, inter), (inter, hidden)]
    expected = step_flops(
        [
            # Nothing trains below q, k and v of the first layer.
            AdaptedShape(num_in, num_out, rank, input_gradient=layer > 0 or place > 2)
            for layer in range(layers)
            for place, (num_in, num_out) in enumerate(shapes)
        ],
        [(piece.num_tokens, piece.num_trained)],
        hidden_size=hidden,
        vocab_size=config.vocab_size,
    )
    matrix_products = torch.ops.aten.mm, torch.ops.aten.addmm
    assert sum(counted[op] for op in matrix_products) == expected


def test_a_contestant_s_process_does_its_task_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    contest = importlib.import_module("contest")
    script = tmp_path / "contestant.py"
    script.write_text(
        "from contest import did_the_task\n"
        "print('loading')\n"
        "assert did_the_task(lambda task: {'twice': 2 * task['number']})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    assert contest.in_a_process(str(script), {"number": 4}) == {"twice": 8}
    monkeypatch.setattr("sys.argv", ["contestant.py", "--pairs", "3"])
    assert not contest.did_the_task(lambda task: {})
    assert capsys.readouterr().out == ""
    with contest.work_folder(tmp_path / "a" / "b") as given, contest.work_folder(None) as made:
        assert given.is_dir() and made.is_dir()
    assert given.is_dir() and not made.exists()


def test_a_variant_is_compared_at_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sft_variants = importlib.import_module("sft_variants")
    seconds = {"lora": 1.0, "dora": 1.25, "qlora": 2.0, "qdora": 3.0}
    measured = {
        f"{name}, {dropout:g}": [
            {"seconds": [taken + dropout], "tokens": [60], "peak_bytes": 2**20}
        ]
        for name, taken in seconds.items()
        for dropout in (0.0, 0.5)
    }
    lines = sft_variants.table_lines(measured, [0.0, 0.5])
    assert [line[3] for line in lines[:4]] == ["", "1.25", "2.00", "3.00"]
    assert [line[4] for line in lines[:4]] == ["", "1.25", "", "1.50"]
    assert lines[4:][1][3] == f"{1.75 / 1.5:.2f}"


def test_every_kernel_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    op_cases, workload = (importlib.import_module(name) for name in ("op_cases", "workload"))
    place = op_cases.Place(torch.device("cpu"), torch.float32, 8)
    cases = list(op_cases.of_model(workload.CONFIGS["tiny"], place))
    assert {case.op for case in cases} == dispatch.OPS.keys() | {"projections"}
    for case in cases:
        assert (case.num_bytes > 0) != (case.floor is not None)
        assert case.reference is not None or case.peer is not None
        for call in (case.ours, case.reference, case.floor, case.peer and case.peer[1]):
            if call is not None:
                call()


def test_the_gpu_programme_runs_dry_and_no_piece_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gpu = importlib.import_module("gpu")
    words = ["--dry-run", "--results", str(tmp_path), "--only"]
    assert gpu.main([*words, "qdora-selective"]) == 0
    assert gpu.main([*words, "qlora-1x2048-full-memory"]) == 0
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert results.keys() == {"qdora-selective", "qlora-1x2048-full-memory"}
    for result in results.values():
        assert result["dry_run"]
        assert len(result["seconds"]) == 2
        assert len(result["losses"]) == 3
    assert results["qdora-selective"]["share_of_ceiling"] > 0
    assert "A dry run" in (tmp_path / gpu.SUMMARY).read_text()

    def never(*_: object, **__: object) -> dict[str, Any]:
        raise AssertionError("a piece with a result was run again")

    monkeypatch.setattr(gpu, "measured", never)
    assert gpu.main([*words, "qdora-selective"]) == 0
    # What is no measurement cannot stand in for one.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="choose another --results"):
        gpu.main(["--results", str(tmp_path), "--only", "qdora-selective"])


def test_a_piece_of_the_gpu_programme_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gpu = importlib.import_module("gpu")
    seen = []

    def in_a_child(piece: Any, limit: float) -> dict[str, Any]:
        seen.append(piece.name)
        if piece.name == "qlora-selective":
            raise RuntimeError("out of memory")
        return {"tokens": 8, "seconds": [2.0], "load_peak_bytes": 1, "peak_bytes": 1}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "in_a_child", in_a_child)
    words = ["--results", str(tmp_path), "--only", "*ora-selective"]
    assert gpu.main([*words, "--minutes", "1"]) == 0  # shorter than any piece
    assert seen == []
    assert "left for the next call: lora-selective" in capsys.readouterr().out
    assert gpu.main(words) == 1
    assert seen == ["lora-selective", "qlora-selective", "qdora-selective"]
    assert "qlora-selective failed: RuntimeError: out of memory" in capsys.readouterr().out
    assert gpu.main(words) == 1
    assert len(seen) == 3
    gpu.main([*words, "--retry"])
    assert seen[3:] == ["qlora-selective"]


def test_a_piece_of_the_gpu_programme_is_ended_at_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gpu = importlib.import_module("gpu")
    piece = gpu.all_pieces()[1]
    # Its imports alone take longer.
    result = gpu.measured(piece, 0.1, dry_run=False)
    assert "TimeoutExpired" in result["error"]
    assert result["took_seconds"] < 5


@pytest.mark.parametrize("storage", ["none", "nf4"])
def test_the_gpu_programme_gives_the_peers_the_same_weights(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    models = importlib.import_module("gpu_model")
    place = torch.device("cpu"), torch.float32
    ours, theirs = (
        models.ours(models.TINY, storage, *place),
        models.theirs(models.TINY, storage, *place),
    )
    ours.train(), theirs.train()  # as they are compared
    ids = torch.arange(2, 14)[None]
    # In evaluation bitsandbytes computes in bfloat16 on processors that have AVX512_BF16.
    torch.testing.assert_close(
        ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-5
    )


def test_the_gpu_programme_compares_within_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = importlib.import_module("gpu_tables")
    seconds = {
        "lora-4x2048-1": [4.0, 2.0, 2.0],  # the middle one counts
        "peft-lora-4x2048-kept-1": [3.0],
        "lora-4x2048-2": [1.0],
        "peft-lora-4x2048-kept-2": [2.0],
        "qlora-4x2048-3": [1.0],  # without another of its round
    }
    found = {name: {"tokens": 8, "seconds": ones} for name, ones in seconds.items()}
    lines = tables.comparisons(found)
    assert lines == [["lora-4x2048", "peft-lora-4x2048-kept", "1.75 (1.50 - 2.00)"]]


def test_recipes_of_real_sets_are_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    real_sets = importlib.import_module("real_sets")
    (tmp_path / "instruct").mkdir()
    solved = {name: {"solution": f"{name}: 2"} for name in real_sets.SOLVERS}
    real_sets.written(
        tmp_path / "instruct" / "gsm8k_example_model_solutions.jsonl",
        [{"question": "1 + 1?", "ground_truth": "2", **solved}],
    )
    (tmp_path / "tiny_shakespeare.txt").write_text("\n\n".join("abcdefghi"), "utf-8")
    made = tmp_path / "made"
    made.mkdir()
    sets = (*real_sets.REAL, *real_sets.million_sets(40))
    assert len({one.name for one in sets}) == len(sets) >= 12
    for one in sets:
        sections = real_sets.recipe_of(one, tmp_path, made)
        whole = parse_recipe(sections)
        few = parse_recipe(real_sets.shortened(sections, 3, 8))
        assert few.train.max_steps == 3 and few.evaluate.max_examples == 8
        assert few.data == whole.data and few.adapter == whole.adapter
        assert few.evaluate.retention == whole.evaluate.retention
    answers = [row["answer"] for row in real_sets.rows_of(made / "solutions.jsonl")]
    assert answers == [f"{name}: 2" for name in real_sets.SOLVERS]
    plays = [row["text"].replace("\n\n", "") for row in real_sets.rows_of(made / "plays.jsonl")]
    assert plays == ["abcdefgh", "i"]
    sound, repeated = (
        [json.dumps(row) for row in real_sets.rows_of(made / f"{name}.jsonl")]
        for name in ("million", "million-repeated")
    )
    assert len(set(sound)) == len(sound) == 40
    repeats = [i for i in range(1, 40) if repeated[i] == repeated[i - 1]]
    assert repeats == [9, 19, 29, 39] and len(set(repeated)) == 36


def test_what_a_command_takes_is_told_behind_a_larger_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives a program the peak of the process that forked it; this one's is far larger."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    took = importlib.import_module("took")
    places = {"output": tmp_path / "out", "errors": tmp_path / "err", "environment": {}}
    held = np.ones(300 * 2**20, dtype=np.uint8)
    code = "print('said'); block = bytearray(64 << 20); block[::4096] = bytes(16384); exit(3)"
    ended = took.run([sys.executable, "-c", code], **places)
    assert held.all()
    assert 64 * 2**20 < ended.peak_bytes < 128 * 2**20
    assert ended.code == 3
    assert ended.seconds > 0 and ended.cpu_seconds > 0
    assert (tmp_path / "out").read_text() == "said\n"
    with pytest.raises(OSError, match="its peak is not known"):
        took.run([sys.executable, "-S", "-c", "pass"], **places)


def _ended(code: int, *findings: tuple[str, str]) -> dict[str, Any]:
    told = [{"severity": severity, "id": name} for severity, name in findings]
    return {
        "code": code,
        "printed": {"rows": {"read": 5, "kept": 4, "dropped": 1}, "findings": told},
        "said": "",
        "seconds": 2.0,
        "cpu_seconds": 1.5,
        "peak_bytes": 2**20,
    }


def test_a_set_ends_as_its_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    real_data, real_sets = (importlib.import_module(name) for name in ("real_data", "real_sets"))
    sound = real_sets.RealSet("sound", lambda data, folder: {})
    broken = real_sets.RealSet("broken", lambda data, folder: {}, errors=("no-rows",))
    check = _ended(0, ("warning", "few-rows"), ("note", "refusals"), ("note", "refusals"))
    new = {"id": "few-steps", "severity": "warning"}
    train = _ended(0) | {"findings": [*check["printed"]["findings"], new]}
    good = {"name": "sound", "check": check, "train": train}
    refused = {"name": "broken", "check": _ended(1, ("error", "no-rows")), "train": _ended(2)}
    assert real_data.bad_ends(sound, good) == real_data.bad_ends(broken, refused) == []
    assert real_data.only_told_by_train(good) == [new]
    assert real_data.counted(check["printed"]["findings"]) == ("warning few-rows, note refusals x2")
    assert real_data.table_line(good | {"train": _ended(0)})[:3] == ["sound", "4 of 5", "0"]
    for real, result in (
        (sound, refused),  # an error that nobody explained
        (broken, good),  # one that is gone
        (sound, good | {"train": _ended(1)}),
        (broken, refused | {"train": _ended(0)}),
    ):
        assert real_data.bad_ends(real, result)


def test_the_linter_s_speed_counts_children_that_run_and_that_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    lint_speed = importlib.import_module("lint_speed")
    before = lint_speed.cpu_seconds()
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(1, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert lint_speed.cpu_seconds() - before > 0.4
        child.communicate(b"\n")
    assert lint_speed.cpu_seconds() - before > 0.4


def test_the_speed_of_linting_is_judged_by_cpu_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    lint_speed = importlib.import_module("lint_speed")
    facts = importlib.import_module("lorakit.lint.facts").Facts
    assert all(hasattr(facts, name) for name in lint_speed.SHARED_BY_RULES)
    parts = {"rows": 2.0, "plan": 1.0, "(repeats)": 2.0, "secrets": 1.0}
    one = {"rows": 2_000, "seconds": 100.0, "cpu_seconds": parts, "load": 1.0}
    assert lint_speed.speed(one) == 20_000 and lint_speed.rules_seconds(one) == 3.0
    assert lint_speed.too_slow({"a": [one], "few": [one | {"rows": 900}]}) == []
    assert lint_speed.too_slow({"a": [one | {"rows": 1_990}]}) == [
        "a: 19,900 rows a minute, fewer than 20,000"
    ]
    assert lint_speed.table_line("a", [one])[-1] == "(repeats) 2.0, secrets 1.0"


@pytest.mark.slow
def test_a_tiny_set_is_checked_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    lint_speed, real_sets = (importlib.import_module(name) for name in ("lint_speed", "real_sets"))
    recipe = tmp_path / "recipe.yaml"
    repeated = real_sets.million_sets(500)[1]
    real_sets.written(recipe, [real_sets.recipe_of(repeated, tmp_path, tmp_path)])
    task = {"recipe": str(recipe), "cache": str(tmp_path / "tokens")}
    result = lint_speed.answer(task)
    assert result["rows"] == 500 and "exact-duplicates" in result["found"]
    assert {"rows", "plan", "(repeats)", "near-duplicates"} <= result["cpu_seconds"].keys()
    assert "500" in lint_speed.report({"made": [result]})


@pytest.mark.slow
def test_a_tiny_set_is_checked_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    real_data, real_sets = (importlib.import_module(name) for name in ("real_data", "real_sets"))
    tiny = real_sets.million_sets(500)[1]
    result = real_data.measure(tiny, tmp_path, tmp_path / "work")
    assert real_data.bad_ends(tiny, result) == []
    assert "exact-duplicates" in real_data.counted(real_data.findings_of(result, "check"))
    assert [one["id"] for one in real_data.only_told_by_train(result)]
    assert str(tmp_path) not in json.dumps(result)
    assert "measured" in real_data.table_line(result)[-1]
