"""A WordNet of a few meanings, in the files of the real one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lorakit.data.wordnet import FILES

NUMBERS = {"n": 1, "v": 2, "a": 3, "r": 4}
LICENCE = "  1 This software and database is being provided to you.  \n"


class Meaning(NamedTuple):
    """A synset.

    Attributes:
        words: {word: how often it was counted in this sense}; `_` joins several.
        pointer: the kind of its one relation, if it has any.
    """

    pos: str
    words: dict[str, int]
    pointer: str = ""


MEANINGS = (
    Meaning("n", {"doctor": 75, "physician": 7, "doc": 3}),
    Meaning("v", {"doctor": 1, "sophisticate": 0}),
    Meaning("n", {"teacher": 42, "instructor": 5, "preceptor": 0}),
    Meaning("n", {"wife": 90, "spouse": 9}),
    Meaning("n", {"actor": 30, "player": 20}),
    Meaning("n", {"player": 15, "musician": 4}),  # which of the two is not told by counts
    Meaning("n", {"pupil": 9, "student": 81}),
    Meaning("n", {"pupil": 0}),  # of the eye: a word so rarely counted may be either
    Meaning("n", {"force": 60, "pressure": 30}),
    Meaning("n", {"blood_pressure": 4}),
    Meaning("n", {"unit": 40, "building_block": 2, "hourglass": 5}),
    Meaning("n", {"dozen": 30, "twelve": 20, "12": 9}),
    Meaning("n", {"Boston": 13, "Beantown": 2, "bay": 8}),
    Meaning("n", {"lout": 5, "oafish": 4}, ";u"),
    Meaning("n", {"leaf": 50, "foliage": 8}),
    Meaning("v", {"leave": 200, "depart": 4}),
    Meaning("v", {"construct": 35, "build": 139}),
    Meaning("v", {"seize": 31, "take": 30}),
    Meaning("v", {"answer": 60, "reply": 26}),
    Meaning("v", {"halt": 40, "stop": 45}),
    Meaning("r", {"often": 155, "frequently": 39, "ofttimes": 0}),
    Meaning("r", {"immediately": 51, "forthwith": 2}),
    Meaning("r", {"since": 30, "afterward": 6}),
    Meaning("a", {"huge": 30, "vast": 28}),
    Meaning("a", {"tiny": 26, "infinitesimal": 3}),
)
EXCEPTIONS = {
    "n": ["leaves leaf", "wives wife"],
    "v": ["built build", "took take", "taken take", "stopped stop", "stopping stop", "left leave"],
}


def write(folder: Path, meanings: Sequence[Meaning] = MEANINGS) -> Path:
    """Write the files to a new folder."""
    folder.mkdir()
    counts = []
    for pos, name in FILES.items():
        data, offsets = LICENCE, defaultdict(list)
        for meaning in meanings:
            if meaning.pos != pos:
                continue
            words = " ".join(f"{word} 0" for word in meaning.words)
            pointer = f"001 {meaning.pointer} 00000000 n 0000" if meaning.pointer else "000"
            for word, count in meaning.words.items():
                offsets[word.lower()].append(len(data))
                key = f"{word.lower()}%{NUMBERS[pos]}:03:00::"
                counts.append(f"{key} {len(offsets[word.lower()])} {count}")
            data += f"{len(data):08d} 03 {pos} {len(meaning.words):02x} {words} {pointer} | .  \n"
        (folder / f"data.{name}").write_text(data)
        lines = [
            f"{word} {pos} {len(at)} 1 @ {len(at)} 0 {' '.join(f'{one:08d}' for one in at)}  \n"
            for word, at in sorted(offsets.items())
        ]
        (folder / f"index.{name}").write_text(LICENCE + "".join(lines))
        (folder / f"{name}.exc").write_text("\n".join([*EXCEPTIONS.get(pos, []), ""]))
    (folder / "cntlist.rev").write_text("\n".join(counts) + "\n")
    return folder
