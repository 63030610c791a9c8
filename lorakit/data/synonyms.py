"""Which English words may take each other's place, as far as WordNet alone can tell.

Two words stand for each other where the most frequent sense of both is one and the same, no other
sense and no other part of speech of either is frequent, and nobody marks either as slang or abuse.
Forms keep their ending (teachers, instructors); a form that has no regular one is left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from lorakit.data.wordnet import FILES, Entry, WordNet, load_wordnet

_WORD = re.compile(r"[a-z]{4,}")
_VOWELS = "aeiou"
# Of the uses of a word in tagged texts: how many its first sense must have, and how many it may
# have as another part of speech.
MIN_FIRST, MAX_OTHER = 0.75, 0.1
# Fewer uses than that do not tell which of several senses is meant.
MIN_TAGGED = 20
# What is taken out must be a word that WordNet knows by its use, and what is put in one that people
# use: of `coronal` it has the wreath alone.
MIN_KNOWN = 5
# And one that is used at least so often as the word it replaces, in its place: a metropolis is a
# city, but stands out.
MIN_SHARE = 1 / 12
# A relation to the domain of a use (slang, abuse, archaism, trade mark), and one of an instance.
_MARKED = frozenset((";u", "@i"))
# Words that build sentences: WordNet has their rare senses alone, for it knows no prepositions,
# conjunctions, pronouns and auxiliaries. Negations and what is close to numbers stay, too.
_STAY = frozenset(
    (  # noqa: SIM905
        "about above across after again against along already also always among another around "
        "away because been before behind being below beneath beside besides between beyond both "
        "cannot could does doing done down during each either else enough even ever every "
        "everything few from further have having here hers herself himself however into itself "
        "just less like likewise many might mine more most much must myself near nearly neither "
        "never nobody none nothing once only onto other others ought ours ourselves outside "
        "over past please rather same several shall should since some somebody someone "
        "something still such than that their theirs them themselves then there these they this "
        "those though through thus till together toward towards under unless until upon very "
        "were what whatever when whenever where wherever whether which whichever while whoever "
        "whole whom whose will with within without would yours yourself yourselves hardly "
        "barely scarcely seldom rarely percent percentage anybody anyone anything everybody "
        "everyone half twice double triple"
    ).split()
)


@dataclass(frozen=True)
class Synonyms:
    """What may stand for what.

    Attributes:
        of: {form: {other word: its form}}, sorted.
        words: {form: the word it is a form of}.
        pairs: neighbouring words that mean something of their own together (`blood pressure`).
    """

    of: dict[str, dict[str, str]]
    words: dict[str, str]
    pairs: frozenset[tuple[str, str]]

    def is_phrase(self, one: str, other: str) -> bool:
        """Whether two words that stand side by side are, or begin or end, an entry of WordNet."""
        firsts, seconds = ({word, self.words.get(word, word)} for word in (one, other))
        seconds |= {word.removesuffix("s") for word in seconds}
        return any((a, b) in self.pairs for a in firsts for b in seconds)


@cache
def synonyms_in(place: Path) -> Synonyms:
    """Read WordNet and keep what is needed of it, a few MiB.

    Raises:
        DataError: see `load_wordnet`.
    """
    wordnet = load_wordnet(place)
    of: dict[str, dict[str, str]] = {}
    words = {}
    for pos, group in _groups(wordnet):
        entries = wordnet.entries[pos]
        forms = {word: _forms(wordnet, pos, word) for word in sorted(group)}
        for word in filter(lambda word: _is_plain(entries[word]), forms):
            fewest = max(MIN_KNOWN, MIN_SHARE * entries[word].tagged)
            others = [w for w in forms if w != word and entries[w].tagged >= fewest]
            for ending, possible in forms[word].items():
                # One form: of `took` and `taken` nothing says which is right.
                same = {
                    w: forms[w][ending][0] for w in others if len(forms[w].get(ending, ())) == 1
                }
                for form in possible if same else ():
                    of[form] = same
                    words[form] = word
    return Synonyms(
        dict(sorted(of.items())), words, frozenset(_pairs(wordnet, set(words.values())))
    )


def _groups(wordnet: WordNet) -> Iterator[tuple[str, list[str]]]:
    """Part of speech and words whose first sense is the same, and which tell by themselves."""
    for pos in FILES:
        by_sense = defaultdict(list)
        for word, entry in wordnet.entries[pos].items():
            if _WORD.fullmatch(word) and word not in _STAY and _has_one_sense(entry):
                by_sense[entry.first].append(word)
        for offset, group in by_sense.items():
            if len(group) < 2:
                continue
            synset = wordnet.synset(pos, offset)
            is_number = any(word.isdecimal() for word in synset.words)  # dozen, twelve, 12
            if not is_number and not synset.pointers & _MARKED:
                yield pos, [word for word in group if word in synset.words]  # Boston is a name


def _has_one_sense(entry: Entry) -> bool:
    """Whether nearly all uses are of the first sense."""
    return entry.senses == 1 or (
        entry.tagged > 0 and entry.first_tagged >= MIN_FIRST * entry.tagged
    )


def _is_plain(entry: Entry) -> bool:
    """Whether a reader takes the word for its first sense: what stands in a text may be any."""
    return entry.tagged >= (MIN_KNOWN if entry.senses == 1 else MIN_TAGGED)


def _forms(wordnet: WordNet, pos: str, word: str) -> dict[str, list[str]]:
    """{ending: forms} of a word, without those that may be a form of another one."""
    endings = {"n": ("", "s"), "v": ("", "s", "ing", "ed")}.get(pos, ("",))
    irregular = wordnet.irregular[pos].get(word, [])
    forms = {}
    for ending in endings:
        regular = _with_ending(word, ending)
        of_ending = [form for form in irregular if _ending(pos, form) == ending]
        possible = of_ending or ([] if regular is None else [regular])
        forms[ending] = [form for form in possible if _is_form_of(wordnet, form, pos, word)]
    return {ending: possible for ending, possible in forms.items() if possible}


def _ending(pos: str, irregular: str) -> str:
    """What an irregular form stands for: men for -s, stopping for -ing, took for -ed."""
    return "s" if pos == "n" else "ing" if irregular.endswith("ing") else "ed"


def _with_ending(word: str, ending: str) -> str | None:
    """The regular form; None where spelling does not tell it. Verbs that double a letter are
    irregular to WordNet."""
    last, before = word[-1], word[-2]
    if ending == "":
        return word
    if ending == "ing":
        if word.endswith("ie"):
            return None
        return (word[:-1] if last == "e" and before not in "eoy" else word) + "ing"
    if last == "y" and before not in _VOWELS:
        return word[:-1] + "i" + ("es" if ending == "s" else "ed")
    if ending == "ed":
        return word + ("d" if last == "e" else "ed")
    if last == "o" or word.endswith(("f", "fe")) or (last == "s" and before not in "siu"):
        return None  # the last are mostly plurals themselves
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _is_form_of(wordnet: WordNet, form: str, pos: str, word: str) -> bool:
    """Whether a form is one of this word, and of hardly any other."""
    readings = wordnet.readings(form)
    if (pos, word) not in readings or not _WORD.fullmatch(form) or form in _STAY:
        return False
    others = sum(wordnet.entries[p][w].tagged for p, w in readings if (p, w) != (pos, word))
    own = wordnet.entries[pos][word].tagged
    return len(readings) == 1 or (own > 0 and others <= MAX_OTHER * own)


def _pairs(wordnet: WordNet, words: set[str]) -> Iterator[tuple[str, str]]:
    """Neighbours in entries of several words, one of which is among the words."""
    for phrase in wordnet.phrases:
        parts = phrase.split("_")
        yield from ((a, b) for a, b in pairwise(parts) if a in words or b in words)
