"""What the real pretrained models computed before anybody touched them: for tests before and
after training.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Ours is float32, the golden values are from an independent float64 forward.
MEAN_NLL = 1e-5
LOGITS = 1e-4

NAMES = ("stories260K", "bitllama-1M")
PUBLISHED_TOKENS = 210  # some more than the 200 steps of the published text


@torch.no_grad()
def assert_golden(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Check a float32 model against the golden.json (and published_greedy.json) of its folder."""
    golden = json.loads((folder / "golden.json").read_text())
    ids = torch.tensor([golden["input_ids"]])
    # The golden ids are the first ones of the text.
    assert tokenizer(golden["text"])["input_ids"][: ids.numel()] == golden["input_ids"]
    logits = model(ids).logits[0]
    nll = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:]).item()
    assert abs(nll - golden["mean_nll"]) < MEAN_NLL * golden["mean_nll"]
    if "argmax" in golden:
        assert logits.argmax(-1).tolist() == golden["argmax"]
        first = torch.tensor(golden["last_logits_first16"])
        assert (logits[-1, :16] - first).abs().max() < LOGITS
    greedy = golden["greedy"]
    assert (
        greedy_ids(model, greedy["prompt_ids"], len(greedy["output_ids"])) == greedy["output_ids"]
    )
    published = folder / "published_greedy.json"
    if published.is_file():
        expected = json.loads(published.read_text())["expected"]
        ids_of_text = greedy_ids(model, [tokenizer.bos_token_id], PUBLISHED_TOKENS)
        text = tokenizer.decode(ids_of_text, skip_special_tokens=True)
        assert text.startswith(expected)


def greedy_ids(model: PreTrainedModel, prompt_ids: list[int], total: int) -> list[int]:
    """The prompt and its greedy continuation, `total` tokens at most, with a key/value cache."""
    prompt = torch.tensor([prompt_ids])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=total - len(prompt_ids),
        do_sample=False,
        pad_token_id=0,
    )
    return out[0].tolist()
