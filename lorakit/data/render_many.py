"""Many conversations at once: what `Renderer.render_noted` makes of each, in less time.

Four things run side by side, a chunk of rows at a time: rows are read; they are shaped and rendered
by the template (one trip to its process for many rows, none where it surely copies what they say);
the tokenizer encodes the texts on all cores; and trained tokens are found. Offsets cost a fifth of
tokenizing and are left out as long as trained tokens can be told without them (`boundaries.py`); a
row for which they cannot is encoded again, and where that is more than the exception, the next
chunks come with offsets.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from lorakit.data.ahead import ahead
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.located import Located, Shaped
from lorakit.data.render import Rendered, Renderer
from lorakit.data.tokens import Encoded, encoded_from
from lorakit.errors import DataError

# Rows that are worked on together: enough to keep every core busy, few enough that what the
# tokenizer makes of them (some 100 bytes a token) stays in its caches.
CHUNK_ROWS = 64 * (os.cpu_count() or 1)
CHUNK_CHARACTERS = 1 << 20
# Chunks that are read before they are needed: while the template's process starts.
CHUNKS_READ = 32
# Chunks in the tokenizer's hands: while one ends, the cores that are done with it go on with the
# next.
CHUNKS_ENCODED = 2
# Share of a chunk's rows that may be encoded twice before the next ones are encoded with offsets.
MAX_TWICE = 0.05
# Texts of the first chunk on which the tokenizer's backend is held against the tokenizer itself.
PROBES = 4


# Ids int32 (T,) of a text, or Encoded: taken out of the tokenizer's hands when they are asked for,
# so that it need not wait for Python.
Tokens = Callable[[], np.ndarray | Encoded]


@dataclass
class _Row:
    """A row on its way; what it raised stands in the place of what failed."""

    conversation: Conversation | PlainText
    shaped: Shaped | None = None
    text: str | DataError = ""
    asked: str | DataError | None = None  # None: it follows from how the text is made up
    located: Located | None = None
    tokens: Tokens | None = None


def render_many(
    renderer: Renderer, conversations: Iterable[Conversation | PlainText]
) -> Generator[Rendered | DataError, None, None]:
    """Yield what `render_noted` returns or raises for each conversation, in order.

    Equal in every id, weight, note and error. `conversations` is iterated in another thread.
    """
    tokenizing = BatchEncoder(renderer.tokenizer)
    chunks = ahead(_chunks(conversations), depth=CHUNKS_READ)
    templated = ahead(_templated(renderer, chunk) for chunk in chunks)
    encoded = _encoded(tokenizing, templated)
    try:
        for rows in encoded:
            twice = 0
            for row in rows:
                done, again = _finished(renderer, row)
                twice += again
                yield done
            if twice > MAX_TWICE * len(rows):
                tokenizing.with_offsets = True
    finally:
        encoded.close()
        templated.close()
        chunks.close()


class BatchEncoder:
    """Encodes texts on all cores, with the tokenizer's backend.

    Calls that change the backend's settings (`split_special_tokens`) go to a copy of the tokenizer
    elsewhere in this room, so that it can be used in several threads.

    Attributes:
        with_offsets: whether `encode` also tells which characters the tokens cover.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.with_offsets = False
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._agrees: bool | None = None
        self._probing = threading.Lock()

    def encode(self, texts: Sequence[str]) -> Sequence[Tokens] | None:
        """The tokens of each text; None if the tokenizer does more than its backend, so that only
        it can encode."""
        with self._probing:
            if self._agrees is None:
                self._agrees = self._probe(list(texts[:PROBES]))
        if not self._agrees:
            return None
        if self.with_offsets:
            batch = self._backend.encode_batch(texts, add_special_tokens=False)
            return [partial(_encoded_of, one) for one in batch]
        batch = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [partial(_ids_of, one) for one in batch]

    def _probe(self, texts: list[str]) -> bool:
        """Whether the backend gives what the tokenizer gives; the call also takes truncation and
        padding off the backend."""
        expected = self._tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
        batch = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [one.ids for one in batch] == expected


def _encoded_of(one: Encoding) -> Encoded:
    return encoded_from(one.ids, one.offsets)


def _ids_of(one: Encoding) -> np.ndarray:
    # Through an unsigned array, Python's integers become int32 in half the time of `np.array`.
    return np.frombuffer(array("I", one.ids), dtype=np.int32)


def _chunks(
    conversations: Iterable[Conversation | PlainText],
) -> Iterator[list[Conversation | PlainText]]:
    chunk: list[Conversation | PlainText] = []
    size = 0
    for conversation in conversations:
        chunk.append(conversation)
        size += _num_characters(conversation)
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _num_characters(conversation: Conversation | PlainText) -> int:
    """About how long the text will be; exact where it matters, with long strings as contents."""
    if isinstance(conversation, PlainText):
        return len(conversation.text)
    contents = [message.get("content") or "" for message in conversation.messages]
    return sum(
        len(content) if isinstance(content, str) else sum(len(part["text"]) for part in content)
        for content in contents
    )


def _templated(renderer: Renderer, chunk: Sequence[Conversation | PlainText]) -> list[_Row]:
    """Shape the rows, and write or render them and their prompts."""
    rows = [_Row(conversation) for conversation in chunk]
    asking: list[_Row] = []
    for row in rows:
        if isinstance(row.conversation, PlainText):
            row.text = row.conversation.text
            continue
        try:
            row.shaped = renderer.shape(row.conversation)
        except DataError as error:
            row.text = error
            continue
        written = renderer.locator.written(row.shaped)
        if written is None:
            asking.append(row)
        else:
            row.text, row.located = written
    _ask(renderer, asking)
    return rows


def _ask(renderer: Renderer, rows: Sequence[_Row]) -> None:
    """Have the template render rows and their prompts, in one trip."""
    asked = []
    for row in rows:
        assert row.shaped is not None
        prompt = row.shaped.prompt()
        asked += [row.shaped.whole()] if prompt is None else [row.shaped.whole(), prompt]
    texts = iter(renderer.template.render_many(asked))
    for row in rows:
        row.text = next(texts)
        row.asked = "" if row.shaped is None or row.shaped.prompt() is None else next(texts)


def _encoded(
    tokenizing: BatchEncoder, templated: Iterable[list[_Row]]
) -> Generator[list[_Row], None, None]:
    """Encode the rows' texts, `CHUNKS_ENCODED` chunks at a time."""

    def encode(rows: list[_Row]) -> list[_Row]:
        sound = [row for row in rows if isinstance(row.text, str)]
        batch = tokenizing.encode([str(row.text) for row in sound]) if sound else None
        for row, tokens in zip(sound, batch or (), strict=batch is not None):
            row.tokens = tokens
        return rows

    with ThreadPoolExecutor(CHUNKS_ENCODED, thread_name_prefix="lorakit-encode") as threads:
        waiting: deque[Future[list[_Row]]] = deque()
        for rows in templated:
            waiting.append(threads.submit(encode, rows))
            if len(waiting) > CHUNKS_ENCODED:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _finished(renderer: Renderer, row: _Row) -> tuple[Rendered | DataError, bool]:
    """The row's example or error, and whether it had to be encoded again."""
    try:
        if isinstance(row.text, DataError):
            return row.text, False
        tokens = None if row.tokens is None else row.tokens()
        if isinstance(row.conversation, PlainText):
            inner = tokens.ids if isinstance(tokens, Encoded) else tokens
            return renderer.plain(row.conversation, inner), False
        assert row.shaped is not None
        return renderer.from_text(row.shaped, row.text, tokens, row.asked, row.located)
    except DataError as error:
        return error, False
