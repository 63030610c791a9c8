"""The tokenizer of the built-in base: byte-level BPE, single digits, own tokens for chat turns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 4096
CONTEXT = 1024
PAD = "<pad>"
END = "<|end|>"
TURNS = ("<|system|>", "<|user|>", "<|assistant|>")
# Not "special": they are text that a model writes and a reader of its answer wants to see.
REASONING = ("<think>", "</think>", "<answer>", "</answer>")

# Qwen2's pattern: contractions, words with the space before them, single digits, punctuation.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int = VOCAB_SIZE
) -> PreTrainedTokenizerFast:
    """Learn the merges from `texts`; ids 0 to 8 are the pad, end, turn and reasoning tokens.

    Args:
        texts: what the model will read; its order decides ties only.
        vocab_size: tokens in all, those named above and the 256 bytes included.

    Returns:
        A tokenizer with chat template, distinct pad and end tokens, and no beginning-of-text token.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    named = [PAD, END, *TURNS, *REASONING]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(token, normalized=False) for token in named],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=_with_plain_tokens(bpe, REASONING),
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(TURNS),
        chat_template=(Path(__file__).parent / "chat_template.jinja").read_text(),
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _with_plain_tokens(bpe: Tokenizer, plain: Iterable[str]) -> Tokenizer:
    """The same tokenizer with `plain` no longer special: the trainer makes every named token so."""
    state = json.loads(bpe.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] not in plain
    return Tokenizer.from_str(json.dumps(state))
