"""Prompts of several adapters in one batch: token for token what each says alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.attached import attached
from lorakit.adapters.several import adapter_names, use_adapter
from lorakit.base.load import load_base
from lorakit.errors import AdapterError, InputError
from lorakit.generate import SamplingSettings, generate
from lorakit.generate.decoders import RowDecoder, SlotDecoder, decoder_for
from lorakit.recipe import LoraConfig
from tests import families, tiny
from tests.adapters.bases import STORAGES, folder_of, perturb
from tests.generate.law import prompts
from tests.tolerances import LOGPROBS_FLOAT32

TOKENIZER = tiny.tokenizer()
PROMPTS = prompts((3, 17, 9, 1, 21, 9, 4, 9))
PROMPTS += [PROMPTS[1], PROMPTS[1], PROMPTS[2]]  # asked again, of the same adapter and of another
NAMES = ["a", "b", None, "a", None, "b", "b", "a", "b", "a", None]
SETTINGS = [
    SamplingSettings(max_new_tokens=9, temperature=0, ignore_eos=True),
    SamplingSettings(max_new_tokens=9, temperature=0.8, seed=5, ignore_eos=True),
]
DECODERS = {"llama": SlotDecoder, "mamba": RowDecoder, "falcon_h1": RowDecoder}
TARGETS = {
    "llama": ["q_proj", "down_proj", "embed_tokens", "lm_head"],
    "mamba": ["in_proj", "x_proj"],
    "falcon_h1": ["q_proj", "down_proj"],
}


def with_two(model, targets):
    attach_adapter(model, LoraConfig(r=4, target_modules=targets), name="a")
    perturb(model, size=0.3, seed=1)
    config = LoraConfig(kind="dora", r=2, target_modules=targets[:1], modules_to_save=["lm_head"])
    attach_adapter(model, config, name="b")
    perturb(model, size=0.3, seed=2)
    return model


def check_law(model, settings: SamplingSettings, **more: int) -> None:
    seeds = [100 + index for index in range(len(PROMPTS))]
    limits = [3 + index for index in range(len(PROMPTS))]
    mixed = generate(
        model,
        TOKENIZER,
        PROMPTS,
        settings,
        seeds=seeds,
        max_new_tokens=limits,
        adapters=NAMES,
        max_batch=5,
        **more,
    )
    said = set()
    for index, name in enumerate(NAMES):
        alone = (PROMPTS[index : index + 1], settings)
        only = {"seeds": seeds[index : index + 1], "max_new_tokens": limits[index : index + 1]}
        if name is None:
            with adapter_disabled(model):
                (expected,) = generate(model, TOKENIZER, *alone, **only)
        else:
            use_adapter(model, name)
            (expected,) = generate(model, TOKENIZER, *alone, **only)
        assert mixed[index].token_ids == expected.token_ids, (index, name)
        difference = torch.tensor(mixed[index].logprobs - expected.logprobs).abs().max()
        assert difference < LOGPROBS_FLOAT32
        said.add(tuple(expected.token_ids[:3]))
    assert len(said) > 4


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_mixed_batch_says_what_each_says_alone(model_type: str, settings) -> None:
    model = with_two(families.build(model_type, initializer_range=0.2), TARGETS[model_type])
    assert isinstance(decoder_for(model, 2), DECODERS[model_type])
    check_law(model, settings)
    assert adapter_names(model) == ["a", "b"]


@pytest.mark.parametrize(("storage", "dense"), list(itertools.product(STORAGES, (0, 1 << 30))))
def test_every_storage_mixes(storage: str, dense: int, tmp_path) -> None:
    folders = {"llama": families.folder(tmp_path / "llama", "llama", initializer_range=0.2)}
    base = folder_of(folders, "llama", storage)
    model, _ = load_base(base, quantization=storage, dtype=torch.float32, device="cpu")
    check_law(with_two(model, TARGETS["llama"][:2]), SETTINGS[0], max_dense_bytes=dense)


def test_what_cannot_work_is_refused() -> None:
    model = families.build("llama", initializer_range=0.2).train()
    modes = {module: module.training for module in model.modules()}
    asked = (TOKENIZER, PROMPTS[:2], SETTINGS[0])
    with pytest.raises(AdapterError, match="has no adapter"):
        generate(model, *asked, adapters=["a", None])
    attach_adapter(model, LoraConfig(r=2, target_modules=["q_proj"]), name="a")
    whole = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["layers.0.mlp"])
    attach_adapter(model, whole, name="whole")
    with pytest.raises(InputError, match="1 adapters for 2 prompts"):
        generate(model, *asked, adapters=["a"])
    with pytest.raises(AdapterError, match="no adapter 'b'"):
        generate(model, *asked, adapters=["a", "b"])
    with pytest.raises(AdapterError, match=r"'whole' changes 'model.layers.0.mlp'"):
        generate(model, *asked, adapters=["a", "whole"])
    assert attached(model).name == "whole"
    assert {module: module.training for module in modes} == modes
