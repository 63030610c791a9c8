"""A ceiling for training: the matrix products of real steps, and nothing else.

Per micro-batch, without padding: of every frozen linear layer the forward product and that of its
input's gradient, the six products of its adapter, causal attention of each row forward and
backward, and the head forward and backward at trained positions. Bare `torch.mm` into buffers that
exist already, weights as large and as many as the model's; no norm, no activation, no loss, no
dequantization, no optimizer. An engine that computes dense products cannot be faster. How many
operations they are is `lorakit.engine.flops`, to which tests hold the replay and the engine alike.

T tokens of a micro-batch, N trained positions, I in, O out, R rank.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig

HEAD_ROWS = 512  # positions per product of the head: the logits of all would need a gigabyte


@dataclass(frozen=True)
class Piece:
    """A micro-batch: tokens of each row, and how many positions are trained."""

    lengths: tuple[int, ...]
    num_trained: int

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


class Linear:
    """The products of one adapted linear layer."""

    def __init__(self, num_in: int, num_out: int, rank: int, *, input_gradient: bool) -> None:
        self.weight_OI = torch.randn(num_out, num_in)
        self.a_RI, self.b_OR = torch.randn(rank, num_in), torch.randn(num_out, rank)
        self.input_gradient = input_gradient

    def forward(self, tokens: int, at: Buffers) -> None:
        x_TI, y_TO, s_TR = at("x", tokens, self.weight_OI.shape[1]), self._out(tokens, at), at.s
        torch.mm(x_TI, self.weight_OI.T, out=y_TO)
        torch.mm(x_TI, self.a_RI.T, out=s_TR[:tokens])
        torch.addmm(y_TO, s_TR[:tokens], self.b_OR.T, out=y_TO)

    def backward(self, tokens: int, at: Buffers) -> None:
        x_TI, dy_TO = at("x", tokens, self.weight_OI.shape[1]), self._out(tokens, at, "dy")
        dx_TI = at("dx", tokens, self.weight_OI.shape[1])
        s_TR, ds_TR = at.s[:tokens], at.ds[:tokens]
        torch.mm(dy_TO, self.b_OR, out=ds_TR)
        torch.mm(dy_TO.T, s_TR, out=at("db", *self.b_OR.shape))
        torch.mm(ds_TR.T, x_TI, out=at("da", *self.a_RI.shape))
        if self.input_gradient:
            torch.mm(dy_TO, self.weight_OI, out=dx_TI)
            torch.addmm(dx_TI, ds_TR, self.a_RI, out=dx_TI)

    def _out(self, tokens: int, at: Buffers, name: str = "y") -> torch.Tensor:
        return at(name, tokens, self.weight_OI.shape[0])


class Buffers:
    """Operands and results: one per name, as large as the largest use, cut to size."""

    def __init__(self, largest: int, most_tokens: int, rank: int) -> None:
        names = ("x", "y", "dx", "dy")
        # No zeros: products of zeros draw less power and run faster.
        self._flat = {name: torch.randn(largest * most_tokens) for name in names}
        self._flat |= {name: torch.empty(largest * rank) for name in ("da", "db")}
        self.s, self.ds = torch.randn(most_tokens, rank), torch.randn(most_tokens, rank)

    def __call__(self, name: str, rows: int, columns: int) -> torch.Tensor:
        return self._flat[name][: rows * columns].view(rows, columns)


class Replay:
    """The products of a model's training steps."""

    def __init__(self, config: PreTrainedConfig, rank: int, most_tokens: int) -> None:
        self._config = config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        hidden, inter = config.hidden_size, config.intermediate_size
        self._head_dim = hidden // heads
        kv = kv_heads * self._head_dim
        shapes = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
        shapes += [(hidden, inter), (hidden, inter), (inter, hidden)]
        self._layers = [
            # Nothing is trained below q, k and v of the first layer: no gradient goes there.
            [
                Linear(i, o, rank, input_gradient=layer > 0 or n > 2)
                for n, (i, o) in enumerate(shapes)
            ]
            for layer in range(config.num_hidden_layers)
        ]
        self._head_VD = torch.randn(config.vocab_size, hidden)
        self._hidden_ND, self._dhidden_ND = torch.randn(2, HEAD_ROWS, hidden).unbind()
        self._logits_NV = torch.empty(HEAD_ROWS, config.vocab_size)
        self._buffers = Buffers(max(hidden, inter), most_tokens, rank)

    def step(self, pieces: Sequence[Piece]) -> None:
        """All products of one optimizer step."""
        for piece in pieces:
            rows = [self._attention_operands(length) for length in piece.lengths]
            for layer in self._layers:
                for linear in layer:
                    linear.forward(piece.num_tokens, self._buffers)
                kept = [self._attend(*row) for row in rows]
                for out, row in zip(kept, rows, strict=True):
                    torch.autograd.grad(out, row, out.detach())
            self._head(piece.num_trained)
            for layer in reversed(self._layers):
                for linear in reversed(layer):
                    linear.backward(piece.num_tokens, self._buffers)

    def _attention_operands(self, length: int) -> list[torch.Tensor]:
        heads, kv_heads = self._config.num_attention_heads, self._config.num_key_value_heads
        sizes = (heads, kv_heads, kv_heads)
        return [torch.randn(1, n, length, self._head_dim, requires_grad=True) for n in sizes]

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )

    def _head(self, num_trained: int) -> None:
        for start in range(0, num_trained, HEAD_ROWS):
            n = min(HEAD_ROWS, num_trained - start)
            torch.mm(self._hidden_ND[:n], self._head_VD.T, out=self._logits_NV[:n])
            torch.mm(self._logits_NV[:n], self._head_VD, out=self._dhidden_ND[:n])


def measure(
    config: PreTrainedConfig, rank: int, steps: Sequence[Sequence[Piece]], warmup: int
) -> dict[str, Any]:
    """Replay the steps; seconds of each after the warm-up."""
    replay = Replay(config, rank, max(piece.num_tokens for step in steps for piece in step))
    seconds = []
    cpu_started = time.process_time()
    for pieces in steps:
        started = time.perf_counter()
        replay.step(pieces)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[warmup:], "cpu_seconds": time.process_time() - cpu_started}
