"""The model in two halves: backbone and output head. The loss needs no `forward` of the head model.

N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.base.families import (
    FAMILIES,
    attention_of,
    family_of,
    why_not_packed,
)
from lorakit.data.examples import MicroBatch
from lorakit.data.length_limit import length_limit
from lorakit.errors import ModelError


def backbone_hidden(model: PreTrainedModel, micro_batch: MicroBatch) -> torch.Tensor:
    """Last hidden states of all tokens, as the output head sees them.

    Args:
        model: a causal language model loaded by `load_base`.
        micro_batch: packed into one row, or padded on the right.

    Returns:
        (rows, D): `micro_batch.input_ids` flattened row by row.

    Raises:
        ModelError: packed examples for a model that cannot keep them apart, or an example so long
            that its rotary embedding depends on the micro-batch.
    """
    _check_length(model, micro_batch.max_seqlen)
    if micro_batch.cu_seqlens is None:
        # Of the families in the table it is known that a token sees nothing to its right, where the
        # padding is, and that positions begin at 0. With a mask or with positions, transformers
        # would ask the device in every pass whether there is anything to mask.
        given = {} if model.config.model_type in FAMILIES else _padding(micro_batch)
        outputs = backbone(model)(input_ids=micro_batch.input_ids, use_cache=False, **given)
        return outputs.last_hidden_state.flatten(0, 1)
    reason = why_not_packed(model.config)
    if reason is not None:
        raise ModelError(
            f"a {model.config.model_type!r} model was given packed examples, but {reason}; "
            "possible: one example per row. Set data.packing: false."
        )
    if model.config._attn_implementation != attention_of(model.config):
        raise ModelError(
            f"this {type(model).__name__} has the attention {model.config._attn_implementation!r}, "
            "which does not keep packed examples apart; possible: models from lorakit.load_base. "
            "Load it with that, or set packing to false."
        )
    outputs = backbone(model)(
        input_ids=micro_batch.input_ids,
        # transformers passes a 4-D mask through untouched. This one fits no scores: a family that
        # drops the keywords below fails, rather than letting examples see each other.
        attention_mask=torch.empty(1, 1, 0, 0, device=micro_batch.input_ids.device),
        position_ids=micro_batch.position_ids,
        use_cache=False,
        cu_seq_lens_q=micro_batch.cu_seqlens,
        cu_seq_lens_k=micro_batch.cu_seqlens,
        max_length_q=micro_batch.max_seqlen,
        max_length_k=micro_batch.max_seqlen,
        example_lengths=micro_batch.lengths,
        shared_prompts=micro_batch.shared,
    )
    return outputs.last_hidden_state.flatten(0, 1)


def _padding(micro_batch: MicroBatch) -> dict[str, torch.Tensor | None]:
    return {
        "attention_mask": micro_batch.attention_mask,
        "position_ids": micro_batch.position_ids,
    }


def _check_length(model: PreTrainedModel, longest: int) -> None:
    limit = length_limit(model.config)
    if limit is not None and longest > limit:
        raise ModelError(
            f"an example has {longest} tokens, but beyond {limit} tokens the rotary embedding of "
            f"this {model.config.model_type!r} model depends on the longest example of a "
            f"micro-batch; possible: up to {limit} tokens, where it does not. Set data.max_length "
            f"to {limit} or less."
        )


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its output head."""
    path = family_of(model.config).backbone
    return model.base_model if path is None else model.get_submodule(path)


def logits_fn(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """What turns hidden states into logits: (N, D) -> (N, V), equal to `model.forward`'s."""
    head = _head(model)
    config = model.config.get_text_config()
    facts = family_of(model.config)
    scale = 1.0 if facts.logits_scale is None else facts.logits_scale(config)
    cap = getattr(config, facts.softcap) if facts.softcap is not None else None

    def logits(hidden_ND: torch.Tensor) -> torch.Tensor:
        out_NV = head(hidden_ND)
        if scale != 1.0:
            out_NV = out_NV * scale
        return out_NV if cap is None else cap * torch.tanh(out_NV / cap)

    return logits


def head_parameters(model: PreTrainedModel) -> tuple[nn.Parameter, ...]:
    """Parameters of the output head that train (`modules_to_save`, a trained bias)."""
    return tuple(p for p in _head(model).parameters() if p.requires_grad)


def check_halves(model: PreTrainedModel) -> None:
    """Check that backbone and head, called one after the other, are the model's forward pass.

    For families without a row in `families.py`: no test has shown it for them.

    Raises:
        ModelError: they are not.
    """
    if model.config.model_type in FAMILIES:
        return
    ids = torch.arange(4, device=model.device)[None]
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        outputs = backbone(model)(input_ids=ids, use_cache=False)
    hidden = getattr(outputs, "last_hidden_state", None)  # absent where base_model is no backbone
    if hidden is not None:
        logits = logits_fn(model)(hidden)
        if logits.shape == expected.shape and torch.allclose(
            logits, expected, rtol=0.01, atol=0.01
        ):
            return
    raise ModelError(
        f"the output head of {model.config.model_type!r} models does more than this version of "
        "lorakit knows, so their loss would be wrong; possible: the families in the "
        "documentation. Choose another base.model, or add a row to lorakit/base/families.py."
    )


def _head(model: PreTrainedModel) -> nn.Module:
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"a {model.config.model_type!r} model has no output head that can be told apart; "
            "possible: causal language models with one. Choose another base.model."
        )
    return head
