"""Must-show 1: the 75 example configs of PEFT: LoRA, rsLoRA and DoRA load and compute what PEFT
computes, dense and on the same NF4 bytes; everything else is refused by its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.peft_config import parse_config
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.load import load_base
from lorakit.errors import AdapterError
from tests import tiny
from tests.adapters.bases import logits
from tests.adapters.peers import (
    assert_gradients_equal,
    load_in_peft,
    make_in_peft,
    same_weights,
    save_from_peft,
)
from tests.tolerances import LOGITS_FLOAT32, relative_error

# What a LoRA's config sets that lorakit does not have.
REFUSED_FIELDS = {
    "kasa_config": "sets kasa_config",
    "use_bdlora": "sets use_bdlora",
    "init_lora_weights": "init_lora_weights 'mica'",
}


def configs(folder: Path) -> dict[str, dict[str, Any]]:
    found = sorted((folder / "adapters" / "configs_peft").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in found}


def refused_field(values: dict[str, Any]) -> str | None:
    """The field for which a LoRA is refused."""
    if values.get("init_lora_weights") == "mica":
        return "init_lora_weights"
    return next((f for f in ("kasa_config", "use_bdlora") if values.get(f) is not None), None)


def is_loaded(values: dict[str, Any]) -> bool:
    return values["peft_type"] == "LORA" and refused_field(values) is None


def names_llama(values: dict[str, Any]) -> bool:
    """Not the layers of an image model."""
    return "to_q" not in (values["target_modules"] or [])


def test_every_config_is_read_or_refused_by_name(shared_data: Path) -> None:
    read, fields, types = [], [], []
    for name, values in configs(shared_data).items():
        if is_loaded(values):
            parsed = parse_config(Path(name), values)
            assert parsed.config.r == values["r"]
            assert parsed.config.lora_alpha == values["lora_alpha"]
            assert parsed.config.use_dora == values.get("use_dora", False)
            read.append(name)
            continue
        field = refused_field(values) if values["peft_type"] == "LORA" else None
        expected = REFUSED_FIELDS[field] if field else f"peft_type '{values['peft_type']}'"
        with pytest.raises(AdapterError, match=expected):
            parse_config(Path(name), values)
        (fields if field else types).append(field or values["peft_type"])
    assert (len(read), len(fields), len(read) + len(fields) + len(types)) == (11, 4, 75)
    assert set(fields) == REFUSED_FIELDS.keys() and len(set(types)) > 30


@pytest.mark.parametrize("storage", ["none", "nf4"])
def test_the_loras_compute_what_peft_computes(
    shared_data: Path, tmp_path: Path, storage: str
) -> None:
    """Each trained by PEFT, with random factors, on a tiny llama with the layers it names."""
    # Rows of whole blocks: see `bitsandbytes_peer.load` on others.
    folder = tiny.folder(tmp_path / "base", "llama", initializer_range=0.1, hidden_size=64)

    def fresh() -> PreTrainedModel:
        return load_base(folder, quantization=storage, dtype=torch.float32, device="cpu")[0]

    loaded = 0
    for name, values in configs(shared_data).items():
        if not is_loaded(values) or not names_llama(values):
            continue
        options = {field: value for field, value in values.items() if field != "peft_type"}
        # Ranks above the tiny layers' sizes: the scaling stays that of the file.
        theirs = make_in_peft(same_weights(fresh(), folder), peft.LoraConfig(**options), size=0.02)
        saved = tmp_path / name
        save_from_peft(theirs, saved)
        if values["target_modules"] is None:  # PEFT's table for llama was in effect
            path = saved / "adapter_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": None}))
        ours = fresh()
        adapter = load_adapter(ours, saved)
        assert {facts.r for facts in adapter.adapted.values()} == {values["r"]}
        assert relative_error(logits(ours), logits(theirs)) <= LOGITS_FLOAT32, name
        assert_gradients_equal(ours, adapter, theirs)
        save_adapter(ours, saved)
        back = load_in_peft(same_weights(fresh(), folder), saved)
        assert relative_error(logits(back), logits(theirs)) <= LOGITS_FLOAT32, name
        loaded += 1
    assert loaded == 8


def test_the_loras_of_image_models_name_layers_that_are_not_here(
    shared_data: Path, tmp_path: Path
) -> None:
    model = tiny.model("llama")
    refused = 0
    for name, values in configs(shared_data).items():
        if is_loaded(values) and not names_llama(values):
            folder = tmp_path / name
            save_adapter(_with_adapter(), folder)
            (folder / "adapter_config.json").write_text(json.dumps(values))
            with pytest.raises(AdapterError, match=r"target_modules .*'to_q'.* match no module"):
                load_adapter(model, folder)
            refused += 1
    assert refused == 3


def _with_adapter() -> PreTrainedModel:
    from lorakit.adapters.attach import attach_adapter
    from lorakit.recipe import LoraConfig

    model = tiny.model("llama")
    attach_adapter(model, LoraConfig(r=4))
    return model


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"])
def test_other_tasks_are_refused_by_name(task: str) -> None:
    with pytest.raises(AdapterError, match=f"task_type '{task}'; possible is 'CAUSAL_LM'"):
        parse_config(Path("file"), {"peft_type": "LORA", "task_type": task})


# Methods within LoRA, as PEFT's config would have them.
METHODS = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 2},
    "layer_replication": [[0, 2]],
    "lora_bias": True,
    "megatron_config": {"tensor_model_parallel_size": 2},
    "monteclora_config": {"num_samples": 8},
    "use_qalora": True,
    "velora_config": {"rank": 2},
}


@pytest.mark.parametrize("field", METHODS)
def test_methods_within_lora_are_refused_by_field_name(field: str) -> None:
    with pytest.raises(AdapterError, match=f"sets {field} to .*Load it with PEFT"):
        parse_config(Path("file"), {"peft_type": "LORA", field: METHODS[field]})


def test_every_field_of_peft_s_config_is_known() -> None:
    """A field of a new PEFT version would be refused when set: this names it first."""
    from lorakit.adapters.peft_config import DEFAULTS, SHARED, TRANSLATED, WITHOUT_EFFECT

    assert peft.LoraConfig().to_dict().keys() <= {
        *DEFAULTS,
        *SHARED,
        *TRANSLATED,
        *WITHOUT_EFFECT,
    }
