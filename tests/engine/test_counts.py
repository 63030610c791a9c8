"""A training step, counted: dequantizations, products, bytes kept, allocations, waits, ops.

T tokens, D hidden size, H query heads, Q and K columns of queries and of keys, F of the MLP's inner
layer, R rank.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lorakit import kernels
from lorakit.adapters.kinds.dora import Dora
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.four_bit import FourBitWeight
from lorakit.engine.flops import AdaptedShape, step_flops
from lorakit.train.step import weighted_nll
from tests import families, tiny
from tests.engine.counting import Training, Waits, bytes_kept, live_tensors, ops, training

KINDS, STORAGES, LAYOUTS = ("lora", "dora"), ("none", "nf4"), (True, False)
VARIANTS = list(itertools.product(KINDS, STORAGES, LAYOUTS))
WHOLE = 1000  # tokens of a micro-batch that has room for all of a step
FLOAT = 4  # bytes

# Of one more layer of Llama, all its layers adapted, forward and backward, one attention call a
# micro-batch: matrix products, compiled ops, what autograd and the adapters add. A step of the
# engine that needs more of them fails; one that needs fewer may lower these. Four of them make the
# inputs of the two norms again, which are not kept.
OPS_PER_LAYER = {"lora": 110, "dora": 315}  # DoRA's with the norms, which are once a step
ALLOCATIONS_PER_LAYER = {"lora": 79, "dora": 270}
# Of NF4, one for each weight and pass: block scales, then the weight.
PER_DEQUANTIZATION = 2
WEIGHTS_PER_LAYER = 7


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    """A tiny Llama folder of so many layers, each made once."""
    made: dict[int, Path] = {}

    def folder(num_layers: int) -> Path:
        if num_layers not in made:
            path = tmp_path_factory.mktemp("counts") / f"llama{num_layers}"
            made[num_layers] = tiny.folder(path, "llama", num_hidden_layers=num_layers)
        return made[num_layers]

    return folder


def of_one_more_layer(llama: Any, count: Any, **variant: Any) -> float:
    """`count(training)` of four layers less that of three, which is three less two."""
    found = []
    for num_layers in (2, 3, 4):
        with training(llama(num_layers), tokens=WHOLE, **variant) as run:
            found.append(count(run))
    assert found[2] - found[1] == found[1] - found[0]  # every layer costs the same
    return found[2] - found[1]


def reads_nothing_trained(name: str) -> bool:
    """Whether nothing trains below a layer of that name, as in the first layer's attention."""
    parts = name.split(".")
    return (
        "0" in parts
        and parts[-1] in ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn")
        and (parts[-2] in ("self_attn", "attn"))
    )


@pytest.mark.parametrize("packed", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mistral", "gemma2", "phi3", "gpt2"])
def test_a_weight_is_dequantized_once_forward_and_once_backward(
    model_type: str, kind: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = families.folder(tmp_path / model_type, model_type)
    plain = FourBitWeight.dequantize
    asked: Counter[int] = Counter()

    def dequantize(self: FourBitWeight, *arguments: Any) -> torch.Tensor:
        asked[id(self)] += 1
        return plain(self, *arguments)

    norms: Counter[int] = Counter()
    plain_norms = Dora.row_norms

    def row_norms(self: Dora, weight: torch.Tensor) -> torch.Tensor:
        norms[id(self)] += 1
        return plain_norms(self, weight)

    with training(folder, packed=packed, kind=kind, quantization="nf4") as run:
        monkeypatch.setattr(FourBitWeight, "dequantize", dequantize)
        monkeypatch.setattr(Dora, "row_norms", row_norms)
        for step in (0, 1, 0):
            asked.clear(), norms.clear()
            num_passes = len(run.batches[step].micro_batches)
            assert num_passes > 1
            run.step(step)
            for name, module in run.adapter.modules.items():
                assert isinstance(module, AdaptedLinear)
                each = 1 if reads_nothing_trained(name) else 2
                assert asked.pop(id(module.base_layer.stored)) == each * num_passes, name
                assert norms[id(module.adapter)] == (1 if kind == "dora" else 0), name
            assert not asked


@pytest.mark.parametrize("kind", KINDS)
def test_a_recomputed_layer_is_dequantized_once_more(
    kind: str, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = FourBitWeight.dequantize
    count = 0

    def dequantize(self: FourBitWeight, *arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return plain(self, *arguments)

    variant = {"kind": kind, "quantization": "nf4"}
    with training(llama(2), tokens=WHOLE, level="full", **variant) as run:
        monkeypatch.setattr(FourBitWeight, "dequantize", dequantize)
        run.step(1)
    assert count == 3 * 2 * WEIGHTS_PER_LAYER - 3  # nothing trains below the first q, k and v


@pytest.mark.parametrize(("kind", "storage", "packed"), VARIANTS)
def test_the_matrix_products_of_a_step(
    kind: str, storage: str, packed: bool, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with training(llama(3), packed=packed, kind=kind, quantization=storage) as run:
        with ops(monkeypatch) as found:
            run.step(1)
        shapes = [
            AdaptedShape(
                *(module.in_features, module.out_features, module.adapter.r),
                input_gradient=not reads_nothing_trained(name),
                has_norms=kind == "dora",
            )
            for name, module in run.adapter.modules.items()
            if isinstance(module, AdaptedLinear)
        ]
        expected = step_flops(
            shapes,
            [(b.input_ids.numel(), len(b.targets)) for b in run.batches[1].micro_batches],
            hidden_size=run.model.config.hidden_size,
            vocab_size=run.model.config.vocab_size,
        )
    assert len(shapes) == 3 * WEIGHTS_PER_LAYER
    assert found.flops == expected


@pytest.mark.parametrize(("kind", "storage", "packed"), VARIANTS)
def test_the_bytes_a_layer_keeps_for_its_backward_pass(
    kind: str, storage: str, packed: bool, llama: Any
) -> None:
    """What attention and MLP read, q, k, v, attention's output, gate and up."""

    def kept(run: Training) -> int:
        (batch,) = run.batches[1].micro_batches
        return bytes_kept(run.model, lambda: weighted_nll(run.model, batch)[0])

    found = of_one_more_layer(llama, kept, packed=packed, kind=kind, quantization=storage)
    with training(llama(2), packed=packed, tokens=WHOLE) as run:
        config = run.model.config
        num_tokens = run.batches[1].micro_batches[0].input_ids.numel()
        r = run.adapter.config.r
    heads, size = config.num_attention_heads, config.head_dim
    D, F, Q, K = (
        config.hidden_size,
        config.intermediate_size,
        heads * size,
        config.num_key_value_heads * size,
    )
    per_token = D + (Q + 2 * K) + Q + D + 2 * F
    # Log-sum-exp of each head, A x of each layer, a number for each norm; padded, the angles.
    per_token += heads + WEIGHTS_PER_LAYER * r + 2 + (0 if packed else 2 * size)
    once = 0
    if kind == "dora":
        # Outputs before the rotary embedding, those of o and down, and two numbers for each row.
        per_token += Q + K + 2 * D
        once = 2 * (Q + 2 * K + 2 * D + 2 * F)
    assert found <= FLOAT * (num_tokens * per_token + once)


@pytest.mark.parametrize(("kind", "storage"), [*itertools.product(KINDS, STORAGES)])
def test_ops_and_allocations_of_a_layer(
    kind: str, storage: str, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = {"packed": False, "kind": kind, "quantization": storage}

    def launched(run: Training) -> int:
        with ops(monkeypatch) as found:
            run.passes(1)
        return sum(found.launched.values())

    def allocated(run: Training) -> int:
        with ops(monkeypatch) as found:
            run.passes(1)
        return sum(found.allocated.values())

    unpacked = 2 * PER_DEQUANTIZATION * WEIGHTS_PER_LAYER if storage == "nf4" else 0
    assert of_one_more_layer(llama, launched, **variant) <= OPS_PER_LAYER[kind] + unpacked
    assert of_one_more_layer(llama, allocated, **variant) <= ALLOCATIONS_PER_LAYER[kind] + unpacked


@pytest.mark.parametrize(("kind", "storage", "packed"), VARIANTS)
def test_steps_are_alike_and_leave_nothing_behind(
    kind: str, storage: str, packed: bool, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with training(llama(2), packed=packed, kind=kind, quantization=storage) as run:
        run.step(1)
        counts, alive = [], []
        for _ in range(3):
            with ops(monkeypatch) as found:
                run.step(1)
            counts.append((found.allocated, found.launched))
            alive.append(live_tensors())
    assert counts[0] == counts[1] == counts[2]
    assert alive[0] == alive[1] == alive[2]


@pytest.mark.parametrize(("kind", "storage", "packed"), VARIANTS)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_host_asks_the_device_for_nothing(
    dropout: float, kind: str, storage: str, packed: bool, llama: Any
) -> None:
    with training(
        llama(2), packed=packed, kind=kind, quantization=storage, lora_dropout=dropout
    ) as run:
        with Waits() as waits:
            run.step(1)
        num_passes = len(run.batches[1].micro_batches)
    # transformers looks for packed examples in the positions that it has just made itself.
    theirs = ["masking_utils.py, find_packed_sequence_indices: __bool__"]
    assert waits.found == ([] if packed else num_passes * theirs)


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_experts_wait_once_a_layer_for_their_counts(model_type: str, tmp_path: Path) -> None:
    folder = families.folder(tmp_path / model_type, model_type)
    with training(folder, quantization="nf4") as run, Waits() as waits:
        run.step(1)
    num_layers, num_passes = run.model.config.num_hidden_layers, len(run.batches[1].micro_batches)
    counts = [place for place in waits.found if "rows_per_expert" in place]
    assert counts == num_layers * num_passes * ["experts.py, rows_per_expert: tolist"]
    assert waits.found == counts


def test_logits_are_made_of_trained_positions_only(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with training(llama(2)) as run:
        rows: list[int] = []
        head = run.model.get_output_embeddings()
        hook = head.register_forward_hook(lambda _, inputs, logits: rows.append(len(logits)))
        run.step(1)
        hook.remove()
        trained = run.batches[1].num_trained_tokens
    assert sum(rows) == trained < run.batches[1].num_tokens


def test_the_reference_is_counted_too(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """That these counts are of the engine: without it there are more of everything."""
    with training(llama(2), tokens=WHOLE, packed=False) as run:
        (batch,) = run.batches[1].micro_batches
        kept = bytes_kept(run.model, lambda: weighted_nll(run.model, batch)[0])
        with ops(monkeypatch) as fast:
            run.passes(1)
        with kernels.reference_only():
            plainly = bytes_kept(run.model, lambda: weighted_nll(run.model, batch)[0])
            with ops(monkeypatch) as slow:
                run.passes(1)
    assert plainly > kept
    assert sum(slow.launched.values()) > sum(fast.launched.values())
