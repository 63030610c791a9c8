"""From rows to examples: counts, limits, findings; and the store that keeps them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from transformers import AutoTokenizer

from lorakit.child.process import ChildProcess
from lorakit.data import row_set
from lorakit.data.contract import FINDINGS
from lorakit.data.detect import converter_for
from lorakit.data.prepare import Prepared, prepare_examples
from lorakit.data.reading import DataRules, SourceSpec, read_meanings
from lorakit.data.render import Renderer
from lorakit.data.sources import Row, read_rows
from lorakit.data.store import TokenStore, open_store, write_store
from lorakit.errors import DataError
from tests import tiny

SHORT = {"question": "Q?", "answer": "A."}
LONG = {"question": "Q?", "answer": "A long answer. " * 40}


def finding_ids(prepared: Prepared) -> set[str]:
    return {finding.id for finding in prepared.findings}


def test_rows_become_examples_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"question": f"Q{i}?", "answer": f"A{i}."} for i in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    prepared = prepare_examples(path, tiny.tokenizer(), DataRules())
    renderer = Renderer(tiny.tokenizer())
    assert (prepared.read, prepared.kept, prepared.dropped) == (5, 5, 0)
    assert [row.location for row in prepared.rows] == [f"{path}:{i}" for i in range(1, 6)]
    for i, row in enumerate(prepared.rows):
        expected = renderer.render(converter_for(row)(row))
        assert np.array_equal(prepared.examples[i].input_ids, expected.input_ids)
        assert np.array_equal(prepared.examples[i].loss_weights, expected.loss_weights)
    assert prepared.examples.lengths.dtype == np.int64
    assert prepared.examples.trained_lengths.tolist() == [
        prepared.examples[i].num_trained_tokens for i in range(5)
    ]


def test_too_long_rows_are_dropped_whole_and_counted() -> None:
    rows = [SHORT] * 9 + [LONG]
    prepared = prepare_examples(rows, tiny.tokenizer(), DataRules(max_length=100))
    assert (prepared.read, prepared.kept, prepared.dropped) == (10, 9, 1)
    finding = next(f for f in prepared.findings if f.id == "rows-too-long")
    assert finding.where == "memory:10" and "1 row is longer than max_length" in finding.message
    assert (prepared.examples.lengths <= 100).all()


def test_too_long_rows_can_be_an_error() -> None:
    rules = DataRules(max_length=100, too_long="error")
    with pytest.raises(DataError, match=r"1 of 10 rows are longer .* memory:10, has \d+ tokens"):
        prepare_examples([SHORT] * 9 + [LONG], tiny.tokenizer(), rules)


def test_dropping_too_many_rows_stops_and_says_what_would_keep_them() -> None:
    rows = [SHORT] * 6 + [LONG] * 4
    rules = DataRules(max_length=100)
    with pytest.raises(DataError, match="4 of 10 rows would be dropped") as caught:
        prepare_examples(rows, tiny.tokenizer(), rules)
    advised = int(str(caught.value).split("max_length ")[2].split()[0])
    kept = prepare_examples(rows, tiny.tokenizer(), replace(rules, max_length=advised))
    assert kept.dropped <= 2
    assert prepare_examples(rows, tiny.tokenizer(), replace(rules, max_dropped=0.4)).kept == 6
    with pytest.raises(DataError, match="4 of 10"):
        prepare_examples(rows, tiny.tokenizer(), replace(rules, max_dropped=0.3))


def test_the_length_limit_is_exact() -> None:
    length = int(prepare_examples([SHORT], tiny.tokenizer(), DataRules()).examples.lengths[0])
    assert prepare_examples([SHORT], tiny.tokenizer(), DataRules(max_length=length)).kept == 1
    with pytest.raises(DataError, match="1 of 1 rows would be dropped"):
        prepare_examples([SHORT], tiny.tokenizer(), DataRules(max_length=length - 1, max_dropped=1))


def test_rows_without_a_trained_token_never_train_silently() -> None:
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    silent = {"messages": [talk[0], talk[1] | {"weight": 0}]}
    with pytest.raises(
        DataError, match=r"without a trained token.*memory:1: nothing in it is trained"
    ):
        prepare_examples([silent], tiny.tokenizer(), DataRules())
    rows = [{"messages": talk}] * 9 + [silent]
    prepared = prepare_examples(rows, tiny.tokenizer(), DataRules())
    assert prepared.kept == 9 and "no-trained-token" in finding_ids(prepared)
    assert (prepared.examples.trained_lengths > 0).all()


def test_a_chat_without_an_answer_is_named_as_such() -> None:
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    asked = {"messages": talk[:1]}
    with pytest.raises(DataError, match=r"memory:1: none of its messages is the assistant's"):
        prepare_examples([asked], tiny.tokenizer(), DataRules())
    prepared = prepare_examples([{"messages": talk}] * 9 + [asked], tiny.tokenizer(), DataRules())
    (told,) = [one for one in prepared.findings if one.id == "no-trained-token"]
    assert told.message.endswith("First: none of its messages is the assistant's")


def test_rows_the_template_refuses_are_dropped_and_named() -> None:
    picky = (
        "{% if messages|length > 2 %}{{ raise_exception('two at most') }}{% endif %}" + tiny.CHATML
    )
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rules = DataRules(chat_template=picky)
    rows = [{"messages": talk}] * 9 + [{"messages": talk * 2}]
    prepared = prepare_examples(rows, tiny.tokenizer(), rules)
    finding = next(f for f in prepared.findings if f.id == "template-refused")
    assert (
        prepared.dropped == 1 and "two at most" in finding.message and finding.where == "memory:10"
    )
    with pytest.raises(DataError, match=r"memory:1: the chat template refuses it: two at most"):
        prepare_examples(rows[9:], tiny.tokenizer(), rules)


def test_a_faulty_row_stops_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(SHORT) + "\n" + json.dumps({"question": "Q?", "answer": " "}))
    with pytest.raises(DataError, match=r"a\.jsonl:2: column 'answer' is empty"):
        prepare_examples(path, tiny.tokenizer(), DataRules())


def test_all_faulty_rows_are_told_at_once() -> None:
    rows = [SHORT, *[{"question": "Q?", "answer": ""}] * 7, {"question": "", "answer": "A."}, SHORT]
    with pytest.raises(DataError, match="8 of 10 rows cannot be used") as caught:
        prepare_examples(rows, tiny.tokenizer(), DataRules())
    told = str(caught.value)
    places = ", ".join(f"memory:{number}" for number in range(2, 7))
    assert f"7 rows ({places} and 2 more): column 'answer' is empty. Fill it, remove" in told
    assert "memory:9: column 'question' is empty" in told
    odd = [{"messages": [{"role": f"r{i}", "content": "x"}]} for i in range(9)]
    with pytest.raises(DataError, match=r"9 of 9 rows .*unknown role 'r4'.* 4 more rows have oth"):
        prepare_examples(odd, tiny.tokenizer(), DataRules())


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (None, "max_length 100 (as given) and was left out whole; raise max_length or split"),
        (100, "max_length 100 (the base's context) and was left out whole; the base cannot go bey"),
        (512, "max_length 100 (as given) and was left out whole; raise max_length (the base's "),
    ],
)
def test_the_limit_of_too_long_rows_is_named(context: int | None, words: str) -> None:
    rules = DataRules(max_length=100, context=context)
    prepared = prepare_examples([SHORT] * 9 + [LONG], tiny.tokenizer(), rules)
    finding = next(f for f in prepared.findings if f.id == "rows-too-long")
    assert finding.message.startswith(f"1 row is longer than {words}")
    prepared = prepare_examples([SHORT] * 9 + [LONG] * 2, tiny.tokenizer(), rules)
    finding = next(f for f in prepared.findings if f.id == "rows-too-long")
    assert finding.message.startswith("2 rows are longer than max_length 100 (")
    with pytest.raises(DataError) as caught:
        prepare_examples([LONG], tiny.tokenizer(), rules)
    assert ("cannot go beyond its context of 100" in str(caught.value)) == (context == 100)


def test_sets_are_mixed_with_weights_and_formats_of_their_own() -> None:
    specs = [
        SourceSpec([SHORT] * 2, weight=2.5),
        SourceSpec([{"text": "Once."}]),
        SourceSpec([{"q": "Q?", "a": "A."}], columns={"question": "q", "answer": "a"}, system="S"),
    ]
    prepared = prepare_examples(specs, tiny.tokenizer(), DataRules())
    assert prepared.repeats.tolist() == [2.5, 2.5, 1.0, 1.0]
    assert "S" in tiny.tokenizer().decode(prepared.examples[3].input_ids)
    with pytest.raises(DataError, match="weight 0"):
        prepare_examples(SourceSpec([SHORT], weight=0), tiny.tokenizer(), DataRules())


def test_duplicates_and_dates_are_noted() -> None:
    dated = tiny.CHATML + "{# strftime_now #}"
    prepared = prepare_examples([SHORT, SHORT], tiny.tokenizer(), DataRules(chat_template=dated))
    assert finding_ids(prepared) == {"duplicate-rows", "template-uses-date"}


def test_every_finding_has_a_severity_and_a_remedy() -> None:
    for finding_id, (severity, meaning) in FINDINGS.items():
        assert finding_id == finding_id.lower() and severity in ("error", "warning", "note")
        assert len(meaning) > 30


# --- tokens on disk ------------------------------------------------------------------------------


def test_a_store_gives_the_same_examples_and_is_not_made_twice(tmp_path: Path, monkeypatch) -> None:
    rows = [SHORT, LONG, {"question": "B?", "answer": "b"}]
    rules = DataRules(max_length=100, max_dropped=0.5)
    plain = prepare_examples(rows, tiny.tokenizer(), rules)
    first = prepare_examples(rows, tiny.tokenizer(), rules, cache_dir=tmp_path)
    monkeypatch.setattr(Renderer, "from_text", None)  # a second tokenization would fail
    second = prepare_examples(rows, tiny.tokenizer(), rules, cache_dir=tmp_path)
    for prepared in (first, second):
        assert isinstance(prepared.examples, TokenStore)
        assert prepared.examples.fingerprint == plain.examples.fingerprint
        assert prepared.findings == plain.findings and list(prepared.rows) == list(plain.rows)
        assert (prepared.read, prepared.kept, prepared.dropped) == (3, 2, 1)
        assert np.array_equal(prepared.examples.lengths, plain.examples.lengths)
        assert np.array_equal(prepared.examples.trained_lengths, plain.examples.trained_lengths)
        for i in range(2):
            assert np.array_equal(prepared.examples[i].input_ids, plain.examples[i].input_ids)
            assert np.array_equal(prepared.examples[i].loss_weights, plain.examples[i].loss_weights)


def test_whatever_makes_the_tokens_makes_another_store(tmp_path: Path) -> None:
    marked = tiny.tokenizer()
    marked.add_tokens(["Q?"])
    base = DataRules()
    variants = [
        ([SHORT], tiny.tokenizer(), base),
        ([{"question": "Q?", "answer": "A!"}], tiny.tokenizer(), base),
        ([SHORT, SHORT], tiny.tokenizer(), base),
        ([SHORT], marked, base),
        ([SHORT], tiny.tokenizer(chat_template=None), base),
        ([SHORT], tiny.tokenizer(), replace(base, trained="all")),
        ([SHORT], tiny.tokenizer(), replace(base, max_length=100)),
        ([SHORT], tiny.tokenizer(), replace(base, system="S")),
        ([SHORT], tiny.tokenizer(), replace(base, chat_template=tiny.CHATML + " ")),
    ]
    for rows, tokenizer, rules in variants:
        prepare_examples(rows, tokenizer, rules, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(variants)


def _store(folder: Path) -> tuple[Path, Prepared]:
    prepared = prepare_examples([SHORT] * 3, tiny.tokenizer(), DataRules(), cache_dir=folder)
    return next(folder.iterdir()), prepared


def test_a_broken_store_is_built_again(tmp_path: Path) -> None:
    place, whole = _store(tmp_path)
    copy = tmp_path.parent / f"{tmp_path.name}-copy"
    shutil.copytree(place, copy)
    for name in sorted(file.name for file in copy.iterdir()):
        content = (copy / name).read_bytes()
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        for damaged in (None, b"", content[: len(content) // 2], content + b"x", flipped):
            if damaged is None:
                (place / name).unlink()
            else:
                (place / name).write_bytes(damaged)
            key = place.name
            if name != "manifest.json" or not _same_json(damaged, content):
                assert open_store(tmp_path, key) is None, (name, damaged)
            again = prepare_examples([SHORT] * 3, tiny.tokenizer(), DataRules(), cache_dir=tmp_path)
            assert again.examples.fingerprint == whole.examples.fingerprint
            assert open_store(tmp_path, key) is not None
    assert len(list(tmp_path.iterdir())) == 1  # nothing half-written is left behind


def _same_json(damaged: bytes | None, content: bytes) -> bool:
    try:
        return damaged is not None and json.loads(damaged) == json.loads(content)
    except ValueError:
        return False


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    prepared = prepare_examples([SHORT], tiny.tokenizer(), DataRules(), cache_dir=tmp_path)
    assert prepared.kept == 1 and "tokens-not-stored" in finding_ids(prepared)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_opens(tmp_path: Path) -> None:
    written = write_store(tmp_path, "k", [], [], {})
    opened = open_store(tmp_path, "k")
    assert opened is not None and len(opened) == len(written) == 0
    with pytest.raises(IndexError):
        opened[0]


# --- real data -----------------------------------------------------------------------------------

REAL_FILES = {
    "instruct/gsm8k_train.jsonl": "question_answer",
    "instruct/gsm8k_test.jsonl": "question_answer",
    "instruct/pubmedqa_train.jsonl": "question_answer",
    "instruct/self_instruct_seed_tasks.jsonl": "alpaca",
    "instruct/tinker_conversations.jsonl": "messages",
    "medquad/small_train_2000.jsonl": "question_answer",
    "medquad/small_test_300.jsonl": "question_answer",
}
REAL_MODELS = [
    "models/stories260K",
    "models/bitllama-1M",
    "tokenizers/gpt2",
    "tokenizers/phi-3-mini",
]


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_are_recognised_and_read_whole(shared_data: Path, name: str) -> None:
    rows = list(read_rows(shared_data / name))
    convert = converter_for(rows[0])
    assert convert.name == REAL_FILES[name]
    assert all(convert(row).messages[-1]["role"] == "assistant" for row in rows)
    lines = (shared_data / name).read_text(encoding="utf-8").split("\n")
    assert len(rows) == sum(1 for line in lines if line.strip())


def test_a_real_file_of_no_format_says_what_to_do(shared_data: Path) -> None:
    path = shared_data / "instruct/gsm8k_example_model_solutions.jsonl"
    with pytest.raises(DataError, match="no row format reads the columns"):
        prepare_examples(path, tiny.tokenizer(), DataRules())
    mapped = converter_for(
        Row({"question": "Q?", "ground_truth": "A."}, "f:1"), columns={"answer": "ground_truth"}
    )
    assert mapped.name == "question_answer"


@pytest.mark.parametrize("model", REAL_MODELS)
def test_real_rows_are_answers_and_a_stop_token(shared_data: Path, model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / model)
    rules = DataRules(max_length=512, max_dropped=1.0)
    prepared = prepare_examples(shared_data / "medquad/small_test_300.jsonl", tokenizer, rules)
    assert prepared.read == 300 and prepared.kept + prepared.dropped == 300 and prepared.kept > 100
    stop = tokenizer.convert_tokens_to_ids("<|end|>") if "phi" in model else tokenizer.eos_token_id
    for i, row in enumerate(prepared.rows):
        example = prepared.examples[i]
        trained = example.input_ids[example.loss_weights > 0]
        assert trained[-1] == stop and stop not in trained[:-1]
        text = tokenizer.decode(trained[:-1]).strip()
        assert text == row.values["answer"].strip()


def test_a_kept_finding_names_the_present_rows(tmp_path: Path) -> None:
    rules = DataRules(max_length=100, max_dropped=0.5)
    for name in ("old", "new"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, [SHORT, LONG])))
        prepared = prepare_examples(path, tiny.tokenizer(), rules, cache_dir=tmp_path / "cache")
        assert [f.where for f in prepared.findings] == [f"{path}:2"]


def test_the_order_of_tool_arguments_is_kept(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        "{% for t in m.tool_calls or [] %}{{ t.function.name }} {{ t.function.arguments | tojson }}"
        "{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = tiny.tokenizer(chat_template=template)
    for arguments in ({"b": "1", "a": "2"}, {"a": "2", "b": "1"}):
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        row = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
        prepared = prepare_examples([{"messages": row}], tokenizer, DataRules(), cache_dir=tmp_path)
        text = tokenizer.decode(prepared.examples[0].input_ids)
        assert json.dumps(arguments) in text


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_template_is_refused(empty: str) -> None:
    with pytest.raises(DataError, match="the chat template is empty"):
        prepare_examples([SHORT], tiny.tokenizer(), DataRules(chat_template=empty))


@pytest.mark.parametrize("share", [{"train": False}, {"weight": 0.5}])
def test_rows_that_contradict_training_every_token_are_refused(share: dict) -> None:
    answer = {"role": "assistant", "content": "y"}
    rows = [{"messages": [{"role": "user", "content": "x"}, {**answer, **share}, answer]}]
    with pytest.raises(DataError, match="memory:1: `trained: all` trains every token"):
        prepare_examples(rows, tiny.tokenizer(), DataRules(trained="all"))
    assert prepare_examples(rows, tiny.tokenizer(), DataRules()).kept == 1


# --- large sets ----------------------------------------------------------------------------------


def test_rows_that_are_not_held_are_read_again(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"question": f"Q{i}?", "answer": f"A{i}."} for i in range(20)]
    path.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    for source in (path, rows, datasets.Dataset.from_list(rows)):
        held = prepare_examples(source, tiny.tokenizer(), DataRules())
        with monkeypatch.context() as patched:
            patched.setattr(row_set, "KEPT_BYTES", 0)
            read_again = prepare_examples(source, tiny.tokenizer(), DataRules())
        assert list(read_again.rows) == list(held.rows)
        assert read_again.examples.fingerprint == held.examples.fingerprint


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(row_set, "KEPT_BYTES", 0)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(SHORT) + "\n")
    meanings = read_meanings(path, DataRules())
    assert meanings[0].row.values == SHORT
    path.write_text(json.dumps(SHORT | {"answer": "Another."}) + "\n")
    with pytest.raises(DataError, match="has changed since it was read"):
        _ = meanings[0].row


def test_an_index_spares_the_second_start_the_rows(tmp_path: Path, monkeypatch) -> None:
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    rows = [{"question": f"{i}?", "answer": "A."} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    said = [meaning.said_hash for meaning in read_meanings(path, DataRules())]
    monkeypatch.setattr(row_set.RowSet, "add", None)  # reading all rows would fail
    again = read_meanings(path, DataRules(), cache_dir=cache)
    assert [meaning.said_hash for meaning in again] == said
    second = prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert second.examples.fingerprint == first.examples.fingerprint
    assert list(second.rows) == list(first.rows)
    assert (second.findings, second.stop_ids) == (first.findings, first.stop_ids)
    monkeypatch.undo()
    for index in (cache / "rows").iterdir():
        index.write_bytes(index.read_bytes()[:100])
    third = prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=cache)
    assert third.examples.fingerprint == first.examples.fingerprint


def test_a_second_start_needs_no_template_process(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(SHORT) + "\n")
    first = prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=tmp_path / "c")
    monkeypatch.setattr(ChildProcess, "start", None)
    monkeypatch.setattr(ChildProcess, "ask", None)
    second = prepare_examples(path, tiny.tokenizer(), DataRules(), cache_dir=tmp_path / "c")
    assert second.examples.fingerprint == first.examples.fingerprint
