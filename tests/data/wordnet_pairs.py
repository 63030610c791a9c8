"""Which words share a meaning in WordNet, read from its database (wndb(5WN)) where it is."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

FOLDER = Path("/usr/share/wordnet")  # Debian's package wordnet-base


def meanings_of_words() -> dict[str, set[tuple[str, str]]]:
    """{word: (part of speech, offset) of every meaning it has}."""
    found = defaultdict(set)
    for pos in ("noun", "verb", "adj", "adv"):
        for line in (FOLDER / f"data.{pos}").read_text("utf-8").splitlines():
            if line.startswith(" "):  # the licence
                continue
            # offset lex_filenum ss_type w_cnt (word lex_id)...
            fields = line.split()
            for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
                found[word.split("(")[0].lower()].add((pos, fields[0]))
    return found
