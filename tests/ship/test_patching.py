"""Law 11: attaching, training, saving, loading and merging patch nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.load import load_base
from lorakit.recipe import LoraConfig
from lorakit.ship.merge import merge
from lorakit.ship.merge_folder import merge_folder
from tests.adapters.bases import logits, token_ids
from tests.patching import nothing_patched


def test_from_attach_to_merge_nothing_is_patched(folders, tmp_path: Path) -> None:
    # Registration under our own name at the first load is the exception the law allows.
    model, _ = load_base(folders["llama"], quantization="nf4", dtype=torch.float32, device="cpu")
    # torch wraps the step of an optimizer class when it makes the first one.
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with nothing_patched():
        config = LoraConfig(use_dora=True, r=4, lora_dropout=0.1, modules_to_save=["lm_head"])
        adapter = attach_adapter(model, config)
        optimizer = torch.optim.AdamW(adapter.parameters().values())
        model.train()
        model(token_ids(), labels=token_ids()).loss.backward()
        optimizer.step()
        model.eval()
        with adapter_disabled(model):
            logits(model)
        save_adapter(model, tmp_path / "adapter")
        again, _ = load_base(folders["llama"], dtype=torch.float32, device="cpu")
        load_adapter(again, tmp_path / "adapter")
        logits(merge(again))
        merge_folder(folders["llama"], tmp_path / "adapter", tmp_path / "out", quantization="nf4")
