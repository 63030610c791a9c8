"""New tokens: the vocabulary grows, their rows alone train, the adapter saves rows and no table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import lorakit
from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.new_rows import train_new_rows
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.empty import empty_base
from lorakit.base.load import load_base
from lorakit.base.vocabulary import add_tokens, grow_vocabulary
from lorakit.base.write_quantized import PackSettings
from lorakit.errors import AdapterError, ModelError
from lorakit.recipe import LoraConfig
from lorakit.ship.merge import merge
from lorakit.ship.merge_folder import merge_folder
from tests import families, tiny
from tests.adapters.bases import logits, perturb
from tests.adapters.peers import load_in_peft
from tests.tolerances import LOGITS_FLOAT32, relative_error

NEW = ["<finding>", "dyspnoea"]
SPECIAL = ["<|note|>"]


@pytest.fixture(scope="module")
def base_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """{tied: a tiny folder whose table has as many rows as its tokenizer has tokens}"""
    root = tmp_path_factory.mktemp("new tokens")
    vocab_size = len(tiny.tokenizer())
    return {
        tied: families.folder(
            root / str(tied), "llama", vocab_size=vocab_size, tie_word_embeddings=tied
        )
        for tied in (False, True)
    }


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_new_tokens_train_and_travel_alone(
    base_folders: dict[bool, Path], tmp_path: Path, tied: bool
) -> None:
    folder = base_folders[tied]
    model, tokenizer = load_base(folder, dtype=torch.float32, device="cpu")
    rows = len(tokenizer)
    before = logits(model)
    mean = model.get_input_embeddings().weight.mean(0)
    ids = add_tokens(model, tokenizer, NEW, special_tokens=SPECIAL)
    assert ids == [rows, rows + 1, rows + 2]
    assert tokenizer.encode("dyspnoea", add_special_tokens=False) == [ids[1]]
    assert torch.equal(logits(model)[..., :rows], before)
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is table) is tied and table.shape[0] == rows + 3 == model.config.vocab_size
    assert torch.allclose(table[ids], mean.expand(3, -1))

    config = train_new_rows(LoraConfig(r=4, target_modules=["q_proj"]), model, ids)
    adapter = attach_adapter(model, config)
    trained = {name: p.shape[0] for name, p in adapter.parameters().items() if "rows" in name}
    expected = {"model.embed_tokens.rows": 3} | ({} if tied else {"lm_head.rows": 3})
    assert trained == expected
    perturb(model)
    batch = torch.tensor([[5, *ids, 9]])
    adapted = model(batch).logits.detach()
    save_adapter(model, tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "rows of 3 token ids are trained" in card
    assert f"resize_token_embeddings({rows + 3})" in card
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not any(tensor.shape[0] > rows // 2 for tensor in saved.values())

    # On the base as it was, its vocabulary grows.
    again, _ = load_base(folder, dtype=torch.float32, device="cpu")
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(again(batch).logits, adapted)
    assert again.config.vocab_size == rows + 3
    with adapter_disabled(again):
        assert relative_error(logits(again)[..., :rows], before) < 1e-6
    in_peft = AutoModelForCausalLM.from_pretrained(folder).eval()
    in_peft.resize_token_embeddings(rows + 3)
    theirs = load_in_peft(in_peft, tmp_path / "adapter")
    assert relative_error(theirs(batch).logits, adapted) <= LOGITS_FLOAT32

    merged = merge(model)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    report = merge_folder(
        folder, tmp_path / "adapter", tmp_path / "out", tokenizer=tmp_path / "tokenizer"
    )
    assert not report.unties
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (values["vocab_size"], values["tie_word_embeddings"]) == (rows + 3, tied)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for one in (merged, plain):
        assert relative_error(one(batch).logits, adapted) <= LOGITS_FLOAT32
        assert one.config.vocab_size == one.get_output_embeddings().weight.shape[0] == rows + 3
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode(NEW[1]) == [ids[1]]


def test_a_quantized_base_grows_and_merges(base_folders: dict[bool, Path], tmp_path: Path) -> None:
    folder = base_folders[False]
    model, tokenizer = load_base(folder, quantization="nf4", dtype=torch.float32, device="cpu")
    ids = add_tokens(model, tokenizer, NEW)
    attach_adapter(model, train_new_rows(LoraConfig(r=4), model, ids))
    perturb(model)
    save_adapter(model, tmp_path / "adapter")
    batch = torch.tensor([[5, *ids, 9]])
    merge_folder(folder, tmp_path / "adapter", tmp_path / "dense", quantization="nf4")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    assert relative_error(plain(batch).logits, model(batch).logits) <= LOGITS_FLOAT32
    merge_folder(
        folder,
        tmp_path / "adapter",
        tmp_path / "packed",
        quantization="nf4",
        quantize=PackSettings("nf4"),
    )
    packed, _ = load_base(tmp_path / "packed", quantization="checkpoint", device="cpu")
    table = packed.get_input_embeddings().weight
    assert table.shape[0] == packed.config.vocab_size == len(tokenizer)
    rows = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    delta = rows["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]
    assert relative_error(table[ids].float(), delta) < 1e-6


def test_reserved_rows_are_used_first(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, "llama", vocab_size=len(tiny.tokenizer()) + 2)
    model, tokenizer = load_base(folder, dtype=torch.float32, device="cpu")
    rows = model.config.vocab_size
    table = model.get_input_embeddings().weight
    ids = add_tokens(model, tokenizer, NEW)
    assert ids == [rows - 2, rows - 1] and model.config.vocab_size == rows
    assert model.get_input_embeddings().weight is table
    assert torch.equal(table[ids[0]], table[ids[1]])


BAD_TOKENS = {
    "known": (["<s>"], "'<s>' is a token already"),
    "empty": ([" "], "' ' is empty"),
    "twice": (["<a>", "<a>"], "'<a>' is given twice"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_tokens_that_cannot_be_added_change_nothing(
    base_folders: dict[bool, Path], case: str
) -> None:
    tokens, expected = BAD_TOKENS[case]
    model, tokenizer = load_base(base_folders[True], dtype=torch.float32, device="cpu")
    before = len(tokenizer)
    with pytest.raises(ModelError, match=expected):
        add_tokens(model, tokenizer, [*NEW, *tokens])
    assert len(tokenizer) == before == model.config.vocab_size


def test_a_model_with_further_tables_over_the_vocabulary_is_refused() -> None:
    model = tiny.model("llama")
    model.model.second = torch.nn.Embedding(400, 4)
    with pytest.raises(ModelError, match=r"further tables over it: model\.second"):
        grow_vocabulary(model, 500)


def test_a_failed_load_takes_the_growth_back(
    base_folders: dict[bool, Path], tmp_path: Path
) -> None:
    model, tokenizer = load_base(base_folders[True], dtype=torch.float32, device="cpu")
    ids = add_tokens(model, tokenizer, NEW)
    attach_adapter(model, train_new_rows(LoraConfig(r=4), model, ids))
    save_adapter(model, tmp_path)
    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"target_modules": ["q_proj"]}))
    again, _ = load_base(base_folders[True], dtype=torch.float32, device="cpu")
    table, rows = again.get_input_embeddings(), again.config.vocab_size
    with pytest.raises(AdapterError, match="surplus"):
        load_adapter(again, tmp_path)
    assert again.get_input_embeddings() is table and again.config.vocab_size == rows
    # Rows behind a gap are not those of new tokens.
    path.write_text(json.dumps(values | {"trainable_token_indices": [ids[0] + 5, ids[0] + 7]}))
    with pytest.raises(AdapterError, match=r"are no rows of model\.embed_tokens.*add_tokens"):
        load_adapter(again, tmp_path)


def test_a_base_with_another_adapter_does_not_grow(
    base_folders: dict[bool, Path], tmp_path: Path
) -> None:
    model, tokenizer = load_base(base_folders[True], dtype=torch.float32, device="cpu")
    ids = add_tokens(model, tokenizer, NEW)
    attach_adapter(model, train_new_rows(LoraConfig(r=4), model, ids))
    save_adapter(model, tmp_path)
    again, _ = load_base(base_folders[True], dtype=torch.float32, device="cpu")
    attach_adapter(again, LoraConfig(r=4), name="first")
    before = logits(again)
    with pytest.raises(AdapterError, match="add them first with"):
        load_adapter(again, tmp_path, name="second")
    assert torch.equal(logits(again), before)


def test_a_module_in_full_needs_no_rows(base_folders: dict[bool, Path]) -> None:
    model = empty_base(base_folders[False])
    ids = [model.config.vocab_size - 1]
    config = LoraConfig(r=4, modules_to_save=["embed_tokens"], trainable_token_indices=None)
    assert train_new_rows(config, model, ids).trainable_token_indices == {"lm_head": ids}
    assert train_new_rows(config, model, []) is config
    listed = LoraConfig(r=4, trainable_token_indices=[3])
    both = train_new_rows(listed, model, ids).trainable_token_indices
    assert both == {"model.embed_tokens": [3, *ids], "lm_head": ids}


def recipe_of(folder: Path, data: Path, output: Path, **adapter: object) -> lorakit.Recipe:
    return lorakit.Recipe(
        base={
            "model": str(folder),
            "device": "cpu",
            "add_tokens": NEW,
            "add_special_tokens": SPECIAL,
        },
        adapter={"r": 4, "target_modules": ["q_proj"], **adapter},
        data={"train": str(data), "validation": 0.3},
        train={"max_steps": 2, "batch_size": 2, "learning_rate": 0.01},
        output={"dir": str(output)},
    )


def test_the_whole_way_of_a_recipe(base_folders: dict[bool, Path], tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": f"Is there {i}?", "completion": f"<finding> dyspnoea {i}"} for i in range(12)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_of(base_folders[True], data, tmp_path / "run")
    outcome = lorakit.finetune(recipe)
    assert outcome.training.steps == 2
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    count = len(tiny.tokenizer())
    assert config["trainable_token_indices"] == [count, count + 1, count + 2]
    trained = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    started = load_base(base_folders[True], device="cpu")[0].get_input_embeddings().weight.mean(0)
    delta = trained["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]
    assert all((row - started).abs().max() > 1e-3 for row in delta)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["parameters"]["trainable"] == sum(t.numel() for t in trained.values())
    lorakit.evaluate_run(tmp_path / "run")
    served = served_run(tmp_path / "run")
    assert served.config.vocab_size == count + 3


def served_run(run: Path) -> PreTrainedModel:
    from lorakit.ship.serving import load_run

    served = load_run(run)
    assert len(served.tokenizer) == served.model.config.vocab_size
    return served.model
