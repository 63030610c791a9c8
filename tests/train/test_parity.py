"""Must-show 4: a run follows a PEFT + torch.optim.AdamW loop with the same init and order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, get_scheduler

from lorakit.adapters.attach import attached
from lorakit.data.examples import ExampleSet
from lorakit.train.batches import StepBatches
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from tests.train import runs

peft = pytest.importorskip("peft")

# PEFT 0.21 still asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

NUM_STEPS = 20
SETTINGS = LoopSettings(
    max_steps=NUM_STEPS,
    batch_size=4,
    learning_rate=1e-2,
    lr_scheduler_type="cosine",
    warmup_steps=2,
    weight_decay=0.01,
    micro_batch_tokens=40,
    seed=3,
)


def _peer_losses(folder: Path, examples: ExampleSet, init: dict, **adapter) -> list[float]:
    """The loop a user of PEFT would write, one example at a time; only the order is lorakit's."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **adapter)
    model = peft.get_peft_model(model, config).eval()
    names = {"lora_A": "lora_A.default.weight", "lora_B": "lora_B.default.weight"}
    names["lora_magnitude_vector"] = "lora_magnitude_vector.default.weight"
    for name, value in init.items():
        module, suffix = name.split(".adapter.")
        model.get_parameter(f"base_model.model.{module}.{names[suffix]}").data.copy_(value)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=SETTINGS.learning_rate, weight_decay=0.01)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=NUM_STEPS)
    order = StepBatches(examples, batch_size=4, seed=3, token_budget=1, packed=False)
    losses = []
    for step in range(NUM_STEPS):
        nlls = []
        for index in order.examples_of(step):
            example = examples[int(index)]
            ids = torch.from_numpy(example.input_ids).long()[None]
            nll = F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
            nlls.append(nll[torch.from_numpy(example.loss_weights[1:]) > 0])
        loss = torch.cat(nlls).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("use_dora", [False, True])
def test_the_loss_follows_peft_and_adamw(tiny_folder: Path, use_dora: bool, packing: bool) -> None:
    examples = runs.ragged_examples(10)
    model = runs.adapted_model(tiny_folder, use_dora=use_dora, lora_alpha=8)
    init = runs.values(model)
    settings = LoopSettings(**{**vars(SETTINGS), "packing": packing})
    losses = [line["loss"] for line in train(model, examples, settings).metrics]
    peer = _peer_losses(tiny_folder, examples, init, use_dora=use_dora)
    differences = [abs(a - b) / b for a, b in zip(losses, peer, strict=True)]
    print(f"relative difference: {max(differences[:5]):.1e} by step 5, {differences[-1]:.1e} at 20")
    assert max(differences[:5]) < 1e-5 and max(differences) < 1e-4
    assert losses[-1] < losses[0] - 0.05  # it did train
    assert len(attached(model).parameters()) == len(init)
