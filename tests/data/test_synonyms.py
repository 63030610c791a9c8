"""Synonyms: what may stand for what, where in a text, and what is said where WordNet is not."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from lorakit.data.synonyms import Synonyms, synonyms_in
from lorakit.data.varied import vary_text
from lorakit.data.wordnet import FOLDER, SYSTEM, find_wordnet, load_wordnet, nltk_folders
from lorakit.errors import DataError
from tests.data import tiny_wordnet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wordnet.write(tmp_path_factory.mktemp("wordnet") / "dict")


@pytest.fixture
def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Synonyms:
    monkeypatch.setenv(FOLDER, str(folder))
    return synonyms_in(folder)


@pytest.fixture(scope="module")
def real() -> Synonyms:
    """The whole of it."""
    try:
        return synonyms_in(find_wordnet())
    except DataError:
        pytest.skip("WordNet is not installed (apt-get install wordnet-base)")


@pytest.mark.parametrize(
    ("word", "others"),
    [
        ("doctor", ("physician",)),  # `doc` is too short to be sure of
        ("doctors", ("physicians",)),  # the verb is rare
        ("sophisticate", None),  # never counted
        ("teachers", ("instructors",)),  # a preceptor is nobody's word
        ("wife", ("spouse",)),
        ("wives", ("spouses",)),
        ("spouses", ("wives",)),
        ("actor", None),  # a player is as often a musician
        ("musician", None),
        ("students", ("pupils",)),
        ("pupils", None),  # may be those of the eye
        ("dozen", None),
        ("bay", None),
        ("lout", None),
        ("leaf", ("foliage",)),
        ("leaves", None),  # may be of leave
        ("constructed", ("built",)),
        ("build", ("construct",)),
        ("built", ("constructed",)),
        ("building", ("constructing",)),
        ("builds", ("constructs",)),
        ("seize", ("take",)),
        ("seized", None),  # took or taken
        ("taken", ("seized",)),
        ("replies", ("answers",)),
        ("answering", ("replying",)),
        ("halted", ("stopped",)),
        ("stopping", ("halting",)),
        ("since", None),  # WordNet knows no conjunctions
        ("often", ("frequently",)),
    ],
)
def test_forms_keep_their_ending_or_stay(
    tiny: Synonyms, word: str, others: tuple[str, ...] | None
) -> None:
    found = tiny.of.get(word)
    assert (found if found is None else tuple(found.values())) == others


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "My doctor has often asked the teacher to answer.",
            {"doctor": "physician", "often": "frequently", "teacher": "instructor"}
            | {"answer": "reply"},
        ),
        ("Doctor Often and THE DOCTOR are names", {}),
        ("the force of blood pressure on a doctor", {"force": "pressure", "doctor": "physician"}),
        ("the pressure of a unit", {"pressure": "force"}),  # an hourglass: the article may differ
        ("a huge wife, an instructor", {"wife": "spouse"}),
        ("Choose one: doctor, teacher or wife.", {}),
        ("doctor: she has often come", {"often": "frequently"}),
        ("give the doctor 5 forces and `often` more", {}),
        ("the doctor's teacher-like self", {}),
        ("not often", {"often": "frequently"}),
        ("Doctors say that the doctor comes often", {"often": "frequently"}),  # all or none
        ("the doctor said that a teacher and an actor's doctor do", {"doctor": "physician"}),
        ("the teacher is a teacher", {}),
    ],
)
def test_only_what_is_safe_where_it_stands_changes(
    tiny: Synonyms, text: str, told: dict[str, str]
) -> None:
    """Over many seeds each of the words changes, at least once, into that and no other does."""
    before, changed = re.findall(r"\w+", text), {}
    for seed in range(40):
        after = re.findall(r"\w+", vary_text(text, "synonyms", seed=seed))
        assert len(before) == len(after)
        changed |= {a: b for a, b in zip(before, after, strict=True) if a != b}
    assert changed == told


def test_a_folder_and_nltk_s_archive_say_the_same(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "wordnet.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for path in folder.iterdir():
            made.write(path, f"wordnet/{path.name}")
    assert synonyms_in(archive) == synonyms_in(folder)


def test_it_is_found_where_nltk_keeps_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setenv("NLTK_DATA", os.pathsep.join(["", str(tmp_path)]))
    monkeypatch.delenv(FOLDER, raising=False)
    assert set(nltk.data.path) - {""} <= set(nltk_folders())
    kept = tmp_path / "corpora" / "wordnet"
    kept.parent.mkdir()
    shutil.copytree(folder, kept)
    assert find_wordnet() == kept


def test_where_it_is_not_the_ways_to_get_it_are_told(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorakit.data.wordnet.nltk_folders", lambda: [str(tmp_path)])
    monkeypatch.setattr("lorakit.data.wordnet.SYSTEM", (str(tmp_path / "no"),))
    monkeypatch.delenv(FOLDER, raising=False)
    ways = "python -m nltk.downloader wordnet.*apt-get install wordnet-base.*evaluate.variants"
    with pytest.raises(DataError, match=f"not on this machine, and nothing is downloaded.*{ways}"):
        find_wordnet()
    monkeypatch.setenv(FOLDER, str(tmp_path / "no"))
    with pytest.raises(DataError, match=f"which is no folder.*{ways}"):
        find_wordnet()
    half = shutil.copytree(folder, tmp_path / "half")
    (half / "data.verb").unlink()
    (tmp_path / "broken.zip").write_bytes(b"PK")
    for place in (half, tmp_path / "broken.zip"):
        with pytest.raises(DataError, match=f"is no whole WordNet database.*{ways}"):
            load_wordnet(place)
    assert SYSTEM


def test_the_whole_of_it_says_what_a_reader_would(real: Synonyms) -> None:
    for word, other in [
        ("doctor", "physician"),
        ("often", "frequently"),
        ("teachers", "instructors"),
        ("calculate", "compute"),
        ("perhaps", "maybe"),
    ]:
        assert other in real.of[word].values(), word
    assert {"have", "will", "since", "after", "like", "what", "nothing", "five"}.isdisjoint(real.of)
    assert real.is_phrase("medical", "students")  # medical_student
    for form, others in real.of.items():
        assert form not in others.values() and others
        for one in (form, *others.values()):
            assert re.fullmatch("[a-z]{4,}", one)
        if form.endswith("ing") and real.words[form] != form:
            assert all(other.endswith("ing") for other in others.values()), form


def test_abuse_is_never_put_in(real: Synonyms) -> None:
    """WordNet lists it beside common words, and counts it where it was common."""
    said = {word for others in real.of.values() for word in others.values()}
    assert said.isdisjoint({"nigger", "bastard", "motherfucker", "idiot", "whore", "babe"})
