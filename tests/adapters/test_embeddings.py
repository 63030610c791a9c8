"""LoRA on embeddings and single token rows: the laws, tied and untied heads, scaled embeddings.

That they compute what PEFT computes is shown by test_option_sets.py.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.attached import Attached
from lorakit.adapters.several import drop_adapter, use_adapter
from lorakit.adapters.store import load_adapter, read_adapter, save_adapter
from lorakit.adapters.targets import find_targets
from lorakit.adapters.word_embeddings import scale_of, why_unfit
from lorakit.base.empty import empty_base
from lorakit.base.load import load_base
from lorakit.data.examples import Example
from lorakit.data.pack import collate
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from lorakit.ship.merge import merge
from lorakit.ship.merge_folder import merge_folder
from lorakit.train.step import weighted_nll
from tests import families, tiny
from tests.adapters.bases import KINDS, logits, perturb, token_ids
from tests.adapters.peers import load_in_peft, peft_warnings
from tests.tolerances import GRADIENT_FLOAT32, IDENTITY, LOGITS_FLOAT32, relative_error

# llama: a padding token; gpt2: two embeddings; gemma3: rows are scaled.
EMBEDDINGS = {"llama": "embed_tokens", "gpt2": "wte", "gemma3_text": "embed_tokens"}
LINEAR = {"llama": "q_proj", "gpt2": "c_fc", "gemma3_text": "q_proj"}
# The padding token, two that never occur, and some of those that do.
IDS = [0, 3, 399, *sorted(set(token_ids().flatten().tolist()))[:6]]
WHAT = (*KINDS, "rows")
CASES = [(family, tied, what) for family in EMBEDDINGS for tied in (False, True) for what in WHAT]


def config_of(family: str, what: str) -> LoraConfig:
    if what == "rows":
        return LoraConfig(r=4, target_modules=[LINEAR[family]], trainable_token_indices=IDS)
    return LoraConfig(kind=what, r=4, target_modules=[LINEAR[family], EMBEDDINGS[family]])


@pytest.fixture(scope="module")
def base_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    root = tmp_path_factory.mktemp("embeddings")
    return {
        (family, tied): families.folder(root / f"{family}-{tied}", family, tie_word_embeddings=tied)
        for family in EMBEDDINGS
        for tied in (False, True)
    }


def fresh(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return load_base(folder, dtype=dtype, device="cpu")[0]


@pytest.mark.parametrize(("family", "tied", "what"), CASES)
def test_laws(base_folders, tmp_path: Path, family: str, tied: bool, what: str) -> None:
    folder = base_folders[family, tied]
    model = fresh(folder)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    before = logits(model)
    adapter = attach_adapter(model, config_of(family, what))
    assert relative_error(logits(model), before) <= IDENTITY
    perturb(model)
    adapted = logits(model)
    assert relative_error(adapted, before) > 1e-2
    with adapter_disabled(model):
        assert torch.equal(logits(model), before)

    model(token_ids(), labels=token_ids()).loss.backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(
        adapter.parameters()
    )
    for name, parameter in adapter.parameters().items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name

    save_adapter(model, tmp_path / "one")
    again = fresh(folder)
    load_adapter(again, tmp_path / "one")
    assert torch.equal(logits(again), adapted)
    save_adapter(again, tmp_path / "two")
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert read_adapter(empty_base(folder), tmp_path / "one").config.r == 4

    # Only trained rows stay tied: an adapter on the embedding alone leaves the head as it was.
    stays_tied = tied and what == "rows"
    merged = merge(model)
    assert relative_error(logits(merged), adapted) <= LOGITS_FLOAT32
    assert merged.config.tie_word_embeddings is stays_tied
    assert type(merged.get_input_embeddings()) is type(fresh(folder).get_input_embeddings())
    report = merge_folder(folder, tmp_path / "one", tmp_path / "out")
    assert report.unties is (tied and not stays_tied)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["tie_word_embeddings"] is stays_tied
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert relative_error(logits(plain), adapted) <= LOGITS_FLOAT32


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("tied", [False, True])
def test_half_precision_bases_train_float32_parameters(base_folders, tied: bool, what: str) -> None:
    folder = base_folders["gemma3_text", tied]
    model = fresh(folder, torch.bfloat16)
    before = logits(model)
    adapter = attach_adapter(model, config_of("gemma3_text", what))
    assert relative_error(logits(model), before) < 1e-2
    perturb(model)
    assert logits(model).dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in adapter.parameters().values())
    assert relative_error(logits(merge(model)), logits(model)) < 5e-2


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("tied", [False, True])
def test_the_loop_s_loss_gives_the_model_s_gradients(base_folders, tied: bool, what: str) -> None:
    """Gradients of a tied row arrive by the embedding and, apart from autograd, by the head."""
    model = fresh(base_folders["llama", tied])
    adapter = attach_adapter(model, config_of("llama", what))
    perturb(model)
    ids = token_ids(rows=1)
    model(ids, labels=ids).loss.backward()
    expected = {name: p.grad.clone() for name, p in adapter.parameters().items()}
    model.zero_grad()
    loss_weights = np.ones(ids.shape[1], dtype=np.float32)
    loss_weights[0] = 0  # nothing predicts the first token
    example = Example(ids[0].numpy(), loss_weights)
    loss, nll = weighted_nll(model, collate([example], [0], packed=True, pad_id=0))
    (loss / len(nll)).backward()
    for name, parameter in adapter.parameters().items():
        assert relative_error(parameter.grad, expected[name]) <= GRADIENT_FLOAT32, name


def test_only_the_rows_have_parameters_and_gradients(base_folders) -> None:
    for tied in (False, True):
        model = fresh(base_folders["llama", tied])
        adapter = attach_adapter(model, config_of("llama", "rows"))
        rows = adapter.parameters()["model.embed_tokens.rows"]
        assert rows.shape == (len(IDS), 32)
        low_rank = sum(r * sum(shape) for shape, r in _shapes(adapter))
        assert adapter.trainable == rows.numel() + low_rank
        ids = torch.tensor([[IDS[3], 9, IDS[5]]])
        model.get_input_embeddings()(ids).sum().backward()
        used = torch.tensor([one in ids for one in IDS])
        assert torch.equal(rows.grad.abs().sum(1) > 0, used)


def _shapes(adapter: Attached) -> list[tuple[tuple[int, ...], int]]:
    return [(facts.shape, facts.r) for facts in adapter.adapted.values()]


def test_the_padding_row_counts_but_gets_no_gradient_from_the_embedding(base_folders) -> None:
    model = fresh(base_folders["llama", False])
    assert model.get_input_embeddings().padding_idx == 0
    adapter = attach_adapter(model, config_of("llama", "rows"))
    perturb(model)
    embedding = model.get_input_embeddings()
    rows = adapter.parameters()["model.embed_tokens.rows"]
    out = embedding(torch.tensor([[0, IDS[1]]]))
    assert torch.equal(out[0, 0], rows[0])
    out.sum().backward()
    assert rows.grad[0].abs().max() == 0 and rows.grad[1].abs().max() > 0


def test_other_rows_for_a_tied_head_untie_it(base_folders, tmp_path: Path) -> None:
    folder = base_folders["llama", True]
    model = fresh(folder)
    rows = {"embed_tokens": [5, 6], "lm_head": [6, 8, 9]}
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=rows)
    with pytest.raises(AdapterError, match=r"name other rows for lm_head than for model.embed_tok"):
        attach_adapter(model, config.model_copy(update={"ensure_weight_tying": True}))
    attach_adapter(model, config)
    perturb(model)
    adapted = logits(model)
    save_adapter(model, tmp_path / "adapter")
    assert relative_error(logits(load_in_peft(plain(folder), tmp_path / "adapter")), adapted) < 1e-5
    assert merge_folder(folder, tmp_path / "adapter", tmp_path / "out").unties
    assert not merge(model).config.tie_word_embeddings


def test_equal_rows_keep_a_tied_head_tied(base_folders, tmp_path: Path) -> None:
    folder = base_folders["llama", True]
    model = fresh(folder)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [5, 6], "lm_head": [5, 6]},
        ensure_weight_tying=True,
    )
    adapter = attach_adapter(model, config)
    assert [name for name in adapter.parameters() if "rows" in name] == ["model.embed_tokens.rows"]
    perturb(model)
    save_adapter(model, tmp_path)
    # PEFT warns that only rows are tied; it ties them all the same.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You have requested `ensure_weight_tying`")
        in_peft = load_in_peft(plain(folder), tmp_path)
    assert relative_error(logits(in_peft), logits(model)) <= LOGITS_FLOAT32


def plain(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_tying_what_trains_apart_is_refused(base_folders) -> None:
    for config in (
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ):
        model = fresh(base_folders["llama", True])
        with pytest.raises(AdapterError, match=r"ensure_weight_tying asks .* merged model is unti"):
            attach_adapter(model, LoraConfig(r=4, ensure_weight_tying=True, **config))


def test_an_adapter_on_both_of_a_tied_pair(base_folders, tmp_path: Path) -> None:
    folder = base_folders["llama", True]
    model = fresh(folder)
    attach_adapter(model, LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"]))
    perturb(model)
    adapted = logits(model)
    save_adapter(model, tmp_path / "adapter")
    assert relative_error(logits(merge(model)), adapted) <= LOGITS_FLOAT32
    assert merge_folder(folder, tmp_path / "adapter", tmp_path / "out").unties
    assert relative_error(logits(plain(tmp_path / "out")), adapted) <= LOGITS_FLOAT32
    in_peft = load_in_peft(plain(folder), tmp_path / "adapter")
    assert relative_error(logits(in_peft), adapted) <= LOGITS_FLOAT32


def test_adapters_on_the_tables_are_switched(base_folders) -> None:
    model = fresh(base_folders["llama", True])
    before, seen = logits(model), {}
    for what in WHAT:
        attach_adapter(model, config_of("llama", what), name=what)
        perturb(model)
        seen[what] = logits(model)
    for what in (*WHAT, *reversed(WHAT)):
        use_adapter(model, what)
        assert torch.equal(logits(model), seen[what]), what
    for what in WHAT[1:]:
        drop_adapter(model, what)
    drop_adapter(model, WHAT[0])
    assert torch.equal(logits(model), before)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_all_linear_leaves_embeddings_out(base_folders) -> None:
    for family, name in EMBEDDINGS.items():
        found = find_targets(fresh(base_folders[family, False]), LoraConfig())
        assert not [one for one in found.adapted if one.endswith(name)]


def test_the_start_is_peft_s(base_folders) -> None:
    """A zero, B standard normal, whatever the init of the linear layers."""
    model = fresh(base_folders["llama", False])
    targets = ["embed_tokens", "q_proj"]
    config = LoraConfig(r=8, target_modules=targets, init_lora_weights="gaussian")
    kind = attach_adapter(model, config).modules["model.embed_tokens"].adapter
    with peft_warnings():
        made = peft.get_peft_model(
            tiny.model("llama"), peft.LoraConfig(r=8, target_modules=["embed_tokens"])
        )
    theirs = made.base_model.model.model.embed_tokens
    assert not kind.lora_A.any() and not theirs.lora_embedding_A["default"].any()
    for started in (kind.lora_B, theirs.lora_embedding_B["default"]):
        assert abs(started.std().item() - 1) < 0.2 and abs(started.mean().item()) < 0.2


@pytest.mark.parametrize("option", ["max_norm", "scale_grad_by_freq", "sparse"])
@pytest.mark.parametrize("what", ["lora", "rows"])
def test_embeddings_that_do_more_are_refused(option: str, what: str) -> None:
    model = tiny.model("llama")
    value = 1.0 if option == "max_norm" else True
    model.model.embed_tokens = nn.Embedding(400, 32, **{option: value})
    with pytest.raises(AdapterError, match=option):
        attach_adapter(model, config_of("llama", what))


def scaled_classes() -> dict[str, type[nn.Embedding]]:
    """Every class of transformers that `scale_of` takes for a scaled embedding."""
    found = {}
    for package in pkgutil.iter_modules(transformers.models.__path__):
        path = Path(transformers.models.__path__[0]) / package.name
        for file in path.glob("modeling_*.py"):
            if "ScaledWordEmbedding(nn.Embedding)" in file.read_text():
                module = importlib.import_module(f"transformers.models.{package.name}.{file.stem}")
                for name, value in vars(module).items():
                    if name.endswith("ScaledWordEmbedding"):
                        found[f"{package.name}.{name}"] = value
    return found


@pytest.mark.slow
def test_scaled_embeddings_multiply_their_rows_and_nothing_else() -> None:
    classes = scaled_classes()
    assert len(classes) > 10
    for name, made in classes.items():
        scale = {key: 3.5 for key in inspect.signature(made).parameters if key.endswith("scale")}
        module = made(20, 8, 0, **scale)
        assert why_unfit(module) is None and scale_of(module) is not None, name
        ids = torch.tensor([[1, 2, 19]])
        assert torch.equal(module(ids), module.weight[ids] * scale_of(module)), name
        assert scale_of(module) == pytest.approx(3.5), name
