"""Law 11: attaching, training, saving, loading and merging patch nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.load import load_base
from lorakit.recipe import LoraConfig
from lorakit.ship.merge import merge
from lorakit.ship.merge_folder import merge_folder
from tests import families
from tests.adapters.bases import logits, token_ids
from tests.patching import nothing_patched


@pytest.mark.parametrize("family", ["llama", "mixtral", "llama4_text"])
def test_from_attach_to_merge_nothing_is_patched(family: str, tmp_path: Path) -> None:
    folder = families.folder(tmp_path / "base", family)
    # Registration under our own name at the first load is the exception the law allows.
    model, _ = load_base(folder, quantization="nf4", dtype=torch.float32, device="cpu")
    # torch wraps the step of an optimizer class when it makes the first one.
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with nothing_patched():
        config = {"use_dora": True, "lora_dropout": 0.1} if family == "llama" else {}
        adapter = attach_adapter(model, LoraConfig(r=4, modules_to_save=["lm_head"], **config))
        optimizer = torch.optim.AdamW(adapter.parameters().values())
        model.train()
        model(token_ids(), labels=token_ids()).loss.backward()
        optimizer.step()
        model.eval()
        with adapter_disabled(model):
            logits(model)
        save_adapter(model, tmp_path / "adapter")
        again, _ = load_base(folder, dtype=torch.float32, device="cpu")
        load_adapter(again, tmp_path / "adapter")
        logits(merge(again))
        merge_folder(folder, tmp_path / "adapter", tmp_path / "out", quantization="nf4")
