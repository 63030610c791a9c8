"""A sequence while it is generated, and the end of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.generate.settings import Completion, FinishReason

# Characters beyond the longest stop string that the end of a text is looked through for: a first
# character that is cut in two is at most three replacement characters, and a tokenizer may drop a
# space at the start of what it decodes.
MARGIN = 8


@dataclass
class Growing:
    """One answer so far.

    Attributes:
        index: of its prompt.
        seed: 64 bits as int64.
        limit: the most tokens, what is left of the model's context included.
        adapter: name of its adapter in a mixed batch; None: the base.
    """

    index: int
    prompt: Sequence[int]
    seed: int
    limit: int
    adapter: str | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    text: str = ""

    def completion(self) -> Completion:
        """What became of it."""
        assert self.finish_reason is not None
        logprobs = np.array(self.logprobs, dtype=np.float32)
        return Completion(self.token_ids, logprobs, self.text, self.finish_reason)


class Stops:
    """Ends sequences.

    Args:
        stop_ids: tokens that end a sequence.
        stop_strings: text that does; it may span tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        stop_strings: Sequence[str],
    ) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids)
        self.stop_strings = tuple(stop_strings)
        self._longest = max(map(len, stop_strings), default=0)

    def end(self, sequence: Growing) -> bool:
        """Whether the sequence's last token ended it; if so its reason and text are set."""
        ids = sequence.token_ids
        if ids[-1] in self.stop_ids:
            sequence.finish_reason, sequence.text = "stop", self._decode(ids[:-1])
            return True
        if self.stop_strings and any(stop in self._tail(ids) for stop in self.stop_strings):
            text = self._decode(ids)
            starts = [text.find(stop) for stop in self.stop_strings if stop in text]
            if starts:
                sequence.finish_reason, sequence.text = "stop", text[: min(starts)]
                return True
        if len(ids) >= sequence.limit:
            sequence.finish_reason, sequence.text = "length", self._decode(ids)
            return True
        return False

    def _tail(self, ids: list[int]) -> str:
        """The end of the text: the last token's, and enough before it for any stop string."""
        count = 4
        while count < len(ids):
            if len(self._decode(ids[-count:-1])) >= self._longest + MARGIN:
                return self._decode(ids[-count:])
            count *= 2
        return self._decode(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text
