"""The corpus of the built-in base: parts with a share of the tokens each, mixed by a seed.

Shared parts (public data read from a folder) are repeated in a new order until their share is
full; generated parts go on for as long as they are asked. Every part has its own generator, so a
part can be added to a later phase without changing what the others yield.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lorakit.builtin.arithmetic import arithmetic, small_sums
from lorakit.builtin.clinic import clinical_chat, clinical_text
from lorakit.builtin.copying import copying, ordered
from lorakit.builtin.document import Document
from lorakit.builtin.instructions import instruction
from lorakit.builtin.reading import medquad_short, reading
from lorakit.builtin.records import record
from lorakit.builtin.shared_sources import SHARED_PARTS

# Share of each phase's tokens. The second phase, while the learning rate falls, has more chats.
MIXTURES: dict[str, dict[str, float]] = {
    "main": {
        "medquad_text": 0.27,
        "medquad_chat": 0.16,
        "medquad_short": 0.10,
        "reading": 0.07,
        "records": 0.04,
        "pubmedqa": 0.03,
        "gsm8k": 0.06,
        "seed_tasks": 0.01,
        "conversations": 0.003,
        "shakespeare": 0.017,
        "clinical_text": 0.07,
        "clinical_chat": 0.07,
        "instructions": 0.06,
        "arithmetic": 0.04,
    },
    "anneal": {
        "medquad_text": 0.08,
        "medquad_chat": 0.12,
        "medquad_short": 0.22,
        "reading": 0.10,
        "records": 0.06,
        "pubmedqa": 0.02,
        "gsm8k": 0.05,
        "seed_tasks": 0.01,
        "conversations": 0.005,
        "clinical_text": 0.05,
        "clinical_chat": 0.11,
        "instructions": 0.10,
        "arithmetic": 0.075,
    },
    # What the first two phases taught too little: sums, and copying from what was given.
    "skills": {
        "small_sums": 0.22,
        "arithmetic": 0.13,
        "records": 0.17,
        "instructions": 0.13,
        "reading": 0.10,
        "medquad_short": 0.13,
        "medquad_chat": 0.05,
        "clinical_chat": 0.05,
        "gsm8k": 0.02,
    },
    # After three phases the base could still not pick a word out of a text that it was given.
    "copying": {
        "copying": 0.32,
        "reading": 0.08,
        "records": 0.08,
        "instructions": 0.09,
        "small_sums": 0.09,
        "arithmetic": 0.09,
        "medquad_short": 0.07,
        "medquad_chat": 0.05,
        "clinical_chat": 0.05,
        "clinical_text": 0.05,
        "gsm8k": 0.03,
    },
    # It could look words up, and wrote the lines that were asked for in a wrong order.
    "ordering": {
        "ordered": 0.46,
        "copying": 0.12,
        "records": 0.08,
        "reading": 0.05,
        "instructions": 0.08,
        "small_sums": 0.06,
        "arithmetic": 0.06,
        "medquad_short": 0.04,
        "clinical_chat": 0.05,
    },
}
PARTS = list(dict.fromkeys(part for mixture in MIXTURES.values() for part in mixture))
# One origin in HELD_OUT (a topic, a row) of the shared parts is never trained, in no part.
HELD_OUT = 80

READ_PARTS = SHARED_PARTS | {"medquad_short": medquad_short, "reading": reading}
GENERATED_PARTS: dict[str, Callable[..., Document]] = {
    "clinical_text": clinical_text,
    "clinical_chat": clinical_chat,
    "instructions": instruction,
    "arithmetic": arithmetic,
    "records": record,
    "small_sums": small_sums,
    "copying": copying,
    "ordered": ordered,
}


def is_held_out(origin: str) -> bool:
    """Whether what is made from this origin is kept out of training."""
    return zlib.crc32(origin.encode()) % HELD_OUT == 0


def part_documents(
    part: str, shared: Path, *, seed: int, phase: str, held_out: bool = False
) -> Iterator[Document]:
    """The endless documents of one part in one phase; the held-out ones of a shared part end.

    Args:
        part: a name of `MIXTURES`.
        shared: folder of the public data, see `shared_sources`.
        seed: another seed gives another order and other generated documents.
        phase: a name of `MIXTURES`, or any other for documents outside all of them.
        held_out: the documents that are never trained, instead of all others.
    """
    rng = random.Random(f"{seed}/{phase}/{part}/{held_out}")
    if part in GENERATED_PARTS:
        while True:
            yield GENERATED_PARTS[part](rng, held_out=held_out)
    documents = READ_PARTS[part](shared)
    chosen = [d for d in documents if is_held_out(d.origin) == held_out]
    while True:
        yield from rng.sample(chosen, len(chosen))
        if held_out:
            return


def phase_blocks(
    phase: str,
    shared: Path,
    *,
    seed: int,
    block_tokens: int,
    count_tokens: Callable[[Document], int],
) -> Iterator[list[Document]]:
    """The endless blocks of mixed documents of one phase; block n is the same however many follow.

    Args:
        block_tokens: about how many tokens a block has; each part gets its share of them.
        count_tokens: tokens of one document.
    """
    streams = {
        part: part_documents(part, shared, seed=seed, phase=phase) for part in MIXTURES[phase]
    }
    order = random.Random(f"{seed}/{phase}/order")
    # What a part took too much in one block it gets less in the next.
    owed = dict.fromkeys(streams, 0.0)
    while True:
        block: list[Document] = []
        for part, stream in streams.items():
            owed[part] += block_tokens * MIXTURES[phase][part]
            while owed[part] > 0:
                document = next(stream)
                owed[part] -= count_tokens(document)
                block.append(document)
        order.shuffle(block)
        yield block


def held_out_documents(shared: Path, *, seed: int, per_part: int) -> dict[str, list[Document]]:
    """At most `per_part` never-trained documents of each part."""
    held_out = {}
    for part in PARTS:
        stream = part_documents(part, shared, seed=seed, phase="held-out", held_out=True)
        held_out[part] = [document for document, _ in zip(stream, range(per_part), strict=False)]
    return held_out


def tokenizer_texts(shared: Path, *, seed: int) -> Iterator[str]:
    """What the tokenizer learns from: one million characters at most of each part."""
    for part in MIXTURES["main"]:
        left, seen = 1_000_000, 0
        for document in part_documents(part, shared, seed=seed, phase="tokenizer"):
            text = document.content()
            yield text
            left, seen = left - len(text), seen + 1
            if left <= 0 or seen >= 5000:
                break
