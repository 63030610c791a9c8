"""Examples that share prompts in a row: the losses and gradients of examples that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter, attached
from lorakit.base.families import why_not_packed
from lorakit.data.examples import Example, MicroBatch
from lorakit.data.pack import collate, collate_shared, pack_groups
from lorakit.recipe import LoraConfig
from lorakit.train.batches import row_keys
from lorakit.train.logprobs import token_logprobs
from tests import families
from tests.adapters.bases import perturb

PACKED = [name for name in families.FAMILIES if why_not_packed(families.config(name)) is None]
# Longer than the tiny configs' window of 8, with groups of one, two and three.
PROMPTS = {7: 3, 11: 2, 2: 1}  # {tokens: completions}
CLOSE = 2e-5


def examples() -> tuple[list[Example], list[int]]:
    draw = np.random.default_rng(0)
    rows, prompt_lengths = [], []
    for length, count in PROMPTS.items():
        prompt = draw.integers(5, 300, length)
        for _ in range(count):
            ids = np.concatenate([prompt, draw.integers(5, 300, draw.integers(1, 13))])
            weights = (np.arange(len(ids)) >= length).astype(np.float32)
            rows.append(Example(ids.astype(np.int32), weights))
            prompt_lengths.append(length)
    return rows, prompt_lengths


def both() -> tuple[MicroBatch, MicroBatch]:
    rows, prompt_lengths = examples()
    ids = range(3, 3 + len(rows))
    return collate(rows, ids, packed=True, pad_id=0), collate_shared(rows, ids, prompt_lengths)


def gradients(model: PreTrainedModel, micro_batch: MicroBatch) -> tuple[torch.Tensor, dict]:
    model.zero_grad()
    logprobs, _ = token_logprobs(model, micro_batch)
    (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
    return logprobs.detach(), {n: p.grad.clone() for n, p in attached(model).parameters().items()}


@pytest.mark.parametrize("model_type", PACKED)
def test_losses_and_gradients_are_those_of_whole_examples(model_type: str) -> None:
    model = families.build(model_type, initializer_range=0.1)
    # Experts have plain LoRA.
    use_dora = model_type not in families.WITH_EXPERTS
    attach_adapter(model, LoraConfig(r=4, use_dora=use_dora))
    perturb(model)
    whole, shared = both()
    logprobs, expected = gradients(model, whole)
    again, got = gradients(model, shared)
    assert (again - logprobs).abs().max() < CLOSE
    assert max(one.norm() for one in expected.values()) > 1e-2
    for name, grad in expected.items():
        assert (got[name] - grad).norm() <= CLOSE * max(1, grad.norm()), name


def test_only_the_row_is_kept_for_the_backward_pass() -> None:
    """Of 20 short answers to a long prompt, whole examples are 17 times the row."""
    model = families.build("llama", max_position_embeddings=512)
    attach_adapter(model, LoraConfig(r=4))
    ids = (np.arange(202) % 256).astype(np.int32)
    rows = [Example(ids, (np.arange(202) >= 200).astype(np.float32))] * 20
    whole = collate(rows, range(20), packed=True, pad_id=0)
    shared = collate_shared(rows, range(20), [200] * 20)
    kept = [kept_bytes(model, batch) for batch in (whole, shared)]
    assert kept[1] < 2 * kept[0] * shared.input_ids.numel() / whole.input_ids.numel()


def kept_bytes(model: PreTrainedModel, micro_batch: MicroBatch) -> int:
    """What a forward pass leaves for its backward pass, the model apart."""
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        return kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_logprobs(model, micro_batch)
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_the_row_has_each_prompt_once() -> None:
    whole, shared = both()
    rows, _ = examples()
    tokens = sum(row.num_trained_tokens for row in rows) + sum(PROMPTS)
    assert shared.input_ids.numel() == shared.position_ids.numel() == tokens
    assert len(row_keys(shared, 1, 2)) == tokens < whole.input_ids.numel()
    assert shared.lengths == whole.lengths and shared.cu_seqlens.equal(whole.cu_seqlens)
    ids = torch.cat([shared.input_ids, shared.position_ids])[..., None]
    spread = shared.shared.spread(ids)
    assert spread.equal(torch.cat([whole.input_ids, whole.position_ids])[..., None])
    assert shared.shared.collect(spread).equal(ids)


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_shared_out(seed: int) -> None:
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, 5, 40).tolist()
    prompts = draw.integers(1, 20, 5)[groups].tolist()
    lengths = draw.integers(1, 30, 40).tolist()
    budget = 60
    packed = pack_groups(prompts, lengths, groups, budget)
    assert sorted(i for members in packed for i in members) == list(range(40))
    for members in packed:
        of = [groups[i] for i in members]
        assert of == sorted(of)
        once = {group: prompts[i] for group, i in zip(of, members, strict=True)}
        assert sum(lengths[i] for i in members) + sum(once.values()) <= budget
