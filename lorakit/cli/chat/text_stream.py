"""Text as its tokens come: only whole characters, and never one that a later token changes."""

from __future__ import annotations

from collections.abc import Collection

from transformers import PreTrainedTokenizerBase

# What bytes that are no character yet decode to.
INCOMPLETE = "\ufffd"


class TextStream:
    """Decodes tokens one by one.

    Args:
        tokenizer: special tokens are not shown.
        hidden: tokens that are not shown either, such as those that end an answer.

    Attributes:
        shown: the text so far.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, hidden: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._hidden = frozenset(hidden)
        self._ids: list[int] = []
        self.shown = ""

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character lacks bytes."""
        if token in self._hidden:
            return ""
        self._ids.append(token)
        # Always from the start: on its own, a piece would lose its leading space.
        text = self._tokenizer.decode(
            self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        if text.endswith(INCOMPLETE) or not text.startswith(self.shown):
            return ""
        return self.rest(text)

    def rest(self, whole: str) -> str:
        """What is still to be shown of the whole text."""
        piece = whole[len(self.shown) :]
        self.shown += piece
        return piece
