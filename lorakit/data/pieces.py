"""The text of an example token by token: what a person has to see to trust what is trained."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lorakit.data.examples import Example

# What decoders give for bytes that are not a whole character yet.
UNFINISHED = "\ufffd"


@dataclass(frozen=True)
class Piece:
    """The text of one token, or of the few tokens that only together spell a character."""

    text: str
    trained: bool


def pieces_of(
    tokenizer: PreTrainedTokenizerBase, example: Example, *, start: int = 0, end: int | None = None
) -> list[Piece]:
    """The pieces of the tokens `start` to `end`, special tokens included, in order.

    Args:
        start, end: token positions, as in a slice.

    Returns:
        Pieces whose texts joined are the text of those tokens; trained and untrained tokens never
        share one.
    """
    ids = example.input_ids[start:end].tolist()
    trained = (example.loss_weights[start:end] > 0).tolist()
    pieces: list[Piece] = []
    before, first = 0, 0  # where the piece before begins, and where this one does
    for stop in range(1, len(ids) + 1):
        # Together with the piece before: on its own, a token would lose its leading space.
        known = _decoded(tokenizer, ids[before:first])
        text = _decoded(tokenizer, ids[before:stop])
        ends = stop == len(ids) or trained[stop] != trained[stop - 1]
        if text.endswith(UNFINISHED) and not ends:
            continue
        pieces.append(Piece(text[len(known) :], trained[stop - 1]))
        before, first = first, stop
    return pieces


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) if ids else ""
