"""WordNet's database as it lies on disk (wndb(5WN), cntlist(5WN)), of which nothing is downloaded.

nltk brings a reader, but since 3.10 it refuses every folder that is not nltk's own, and it opens
two files that Debian's package leaves out.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lorakit.errors import DataError

FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}  # by part of speech
_BY_NUMBER = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}  # in keys of senses

FOLDER = "WNSEARCHDIR"  # of the environment, as WordNet's own programs have it
SYSTEM = ("/usr/share/wordnet", "/usr/local/WordNet-3.0/dict")
# Endings that are taken off a form, and what stands there instead (morphy(7WN)).
_ENDINGS = {
    "n": (
        *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z")),
        *(("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
    ),
    "v": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", "")),
        *(("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    ),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}


@dataclass(frozen=True)
class Entry:
    """A word as one part of speech.

    Attributes:
        senses: how many there are.
        first: where the most frequent one lies in the data file.
        tagged: how often the word was counted in tagged texts.
        first_tagged: of these, in its most frequent sense.
    """

    senses: int
    first: int
    tagged: int = 0
    first_tagged: int = 0


@dataclass(frozen=True)
class Synset:
    """One meaning.

    Attributes:
        words: with their capitals; several words of one are joined by `_`.
        pointers: kinds of its relations to other meanings, such as `@i`: it is an instance.
    """

    words: tuple[str, ...]
    pointers: frozenset[str]


class WordNet:
    """What the files say.

    Args:
        read: the content of a file by its name.

    Attributes:
        entries: {part of speech: {single word: its entry}}.
        phrases: entries of several words, joined by `_`.
        irregular: {part of speech: {word: its irregular forms}}.
    """

    def __init__(self, read: Callable[[str], bytes]) -> None:
        counts = _counts(read("cntlist.rev"))
        self.entries: dict[str, dict[str, Entry]] = {}
        self.phrases: set[str] = set()
        self.irregular: dict[str, dict[str, list[str]]] = {pos: defaultdict(list) for pos in FILES}
        self._exceptions: dict[str, dict[str, list[str]]] = {}
        self._data = {}
        for pos, name in FILES.items():
            self.entries[pos] = {}
            for line in _lines(read(f"index.{name}")):
                # lemma pos synset_cnt p_cnt ptr_symbol... sense_cnt tagsense_cnt synset_offset...
                fields = line.split()
                word, senses = fields[0], int(fields[2])
                if "_" in word:
                    self.phrases.add(word)
                else:
                    first = int(fields[-senses])
                    self.entries[pos][word] = Entry(senses, first, *counts.get((pos, word), ()))
            forms = (line.split() for line in _lines(read(f"{name}.exc")))
            self._exceptions[pos] = {form: words for form, *words in forms}
            for form, words in self._exceptions[pos].items():
                for word in words:
                    self.irregular[pos][word].append(form)
            self._data[pos] = read(f"data.{name}")

    def synset(self, pos: str, offset: int) -> Synset:
        """The meaning at an offset of the data file."""
        data = self._data[pos]
        fields = data[offset : data.index(b"\n", offset)].decode().split(" | ")[0].split()
        # offset lex_filenum ss_type w_cnt (word lex_id)... p_cnt (symbol offset pos source)...
        end = 4 + 2 * int(fields[3], 16)
        words = tuple(word.split("(")[0] for word in fields[4:end:2])  # galore(ip)
        return Synset(words, frozenset(fields[end + 1 : end + 1 + 4 * int(fields[end]) : 4]))

    def readings(self, form: str) -> set[tuple[str, str]]:
        """(part of speech, word) of all that a form may be one of, as morphy(7WN) has it."""
        found = set()
        for pos, entries in self.entries.items():
            cut = [
                form.removesuffix(ending) + instead
                for ending, instead in _ENDINGS[pos]
                if form.endswith(ending)
            ]
            words = [form, *self._exceptions[pos].get(form, ()), *cut]
            found |= {(pos, word) for word in words if word in entries}
        return found


def load_wordnet(place: Path) -> WordNet:
    """Read a folder of database files, or the archive that nltk keeps them in.

    Raises:
        DataError: a file is missing, or is none of WordNet's.
    """
    try:
        if place.suffix == ".zip":
            with zipfile.ZipFile(place) as archive:
                return WordNet(lambda name: archive.read(f"{place.stem}/{name}"))
        return WordNet(lambda name: (place / name).read_bytes())
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{place} is no whole WordNet database: {error!r}. {_how_to_get_it()}"
        ) from error


def find_wordnet() -> Path:
    """Where WordNet lies on this machine.

    Raises:
        DataError: nowhere, with the commands that bring it.
    """
    own = os.environ.get(FOLDER)
    if own:
        if not Path(own).is_dir():
            raise DataError(f"{FOLDER} is {own!r}, which is no folder. {_how_to_get_it()}")
        return Path(own)
    corpora = [Path(folder) / "corpora" for folder in nltk_folders()]
    places = [corpus / name for corpus in corpora for name in ("wordnet", "wordnet.zip")]
    found = [place for place in [*places, *map(Path, SYSTEM)] if place.exists()]
    if not found:
        raise DataError(
            "WordNet, from which synonyms are taken, is not on this machine, and nothing is "
            f"downloaded unasked. {_how_to_get_it()}"
        )
    return found[0]


def nltk_folders() -> list[str]:
    """Where nltk looks for its data; importing it to ask takes a second and 100 MiB."""
    given = [folder for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    prefix = [f"{sys.prefix}{folder}/nltk_data" for folder in ("", "/share", "/lib")]
    system = [f"/usr{folder}/nltk_data" for folder in ("/share", "/local/share", "/lib")]
    return [*given, str(Path.home() / "nltk_data"), *prefix, *system, "/usr/local/lib/nltk_data"]


def _how_to_get_it() -> str:
    return (
        "Get it by `python -m nltk.downloader wordnet` or, on Debian and Ubuntu, `apt-get install "
        f"wordnet-base`; or name the folder of its database in the environment as {FOLDER}; or "
        "remove synonyms from evaluate.variants."
    )


def _lines(content: bytes) -> list[str]:
    """Lines that say something: those of the licence open with a blank."""
    return [line for line in content.decode().splitlines() if line and line[0] != " "]


def _counts(content: bytes) -> dict[tuple[str, str], tuple[int, int]]:
    """{(part of speech, word): (how often it was counted, in its first sense)}."""
    every: dict[tuple[str, str], int] = defaultdict(int)
    first: dict[tuple[str, str], int] = defaultdict(int)
    for line in _lines(content):
        key, number, count = line.split()  # word%1:26:00:: sense_number tag_cnt
        parsed = re.match(r"([^%]+)%([1-5]):", key)
        if parsed is None:
            raise ValueError(f"{key!r} is no key of a sense")
        word = (_BY_NUMBER[parsed[2]], parsed[1])
        every[word] += int(count)
        first[word] += int(count) if number == "1" else 0
    return {word: (count, first[word]) for word, count in every.items()}
