"""Casual messages and their formal versions: at work (near), between neighbours (far)."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, bind, expand

_Pairs = tuple[tuple[str, str], ...]

_SLOTS = {
    "name": ["Sam", "Alex", "Dana", "Kim", "Robin", "Noor", "Luca", "Petra", "Ivan", "Mei"],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"],
    "time": ["nine", "half past ten", "noon", "two", "a quarter to four", "five"],
    "doc": ["report", "contract", "offer", "budget", "slide deck", "minutes", "draft", "invoice"],
    "team": ["sales", "legal", "finance", "design", "warehouse", "support"],
    "thing": ["ladder", "drill", "wheelbarrow", "hose", "tent", "trailer", "hedge trimmer"],
    "spot": ["cellar", "stairwell", "courtyard", "bike shed", "laundry room", "front garden"],
}

_NEAR_OPEN: _Pairs = (
    ("hey <name>,", "Dear <name>,"),
    ("yo <name>!", "Good day <name>,"),
    ("<name>, quick thing -", "Dear <name>, I am writing to you briefly."),
    ("hiya <name> :)", "Dear <name>, I hope this message finds you well."),
    ("morning <name>!!", "Good morning <name>,"),
)
_NEAR_SAY: _Pairs = (
    (
        "cant make it <day>, stuff came up.",
        "Unfortunately I am unable to attend on <day> owing to other commitments.",
    ),
    ("did u get the <doc> yet?", "May I ask whether you have received the <doc>?"),
    ("the <doc> is kinda a mess tbh.", "In my view the <doc> requires further revision."),
    ("lets push it to <time> ok?", "I suggest that we postpone the appointment to <time>."),
    ("<team> is still sitting on it, ugh.", "The <team> department has not yet responded."),
    (
        "big thanks for bailing us out w/ <team>!",
        "I sincerely thank you for your assistance with the <team> department.",
    ),
    (
        "pls dont send it to <team> before <time>.",
        "Please refrain from forwarding it to the <team> department before <time>.",
    ),
    ("need ur ok on the <doc> asap.", "I would appreciate your prompt approval of the <doc>."),
    (
        "my bad, wrong file last <day>.",
        "I apologise for having attached the wrong file last <day>.",
    ),
    (
        "no clue who owns the <doc> now.",
        "It is unclear to me who is currently responsible for the <doc>.",
    ),
    (
        "numbers look way off, can u check?",
        "The figures appear to be incorrect; could you kindly verify them?",
    ),
    ("boss wants it by <day>, no joke.", "Management expects its completion by <day>."),
    ("gonna call <team> at <time>.", "I shall telephone the <team> department at <time>."),
    ("heads up, printer's dead again.", "Please note that the printer is out of order once more."),
)
_NEAR_CLOSE: _Pairs = (
    ("thx!", "Thank you in advance."),
    ("cheers, <name2>", "Kind regards, <name2>"),
    ("ping me if anything", "Please contact me should you have any questions."),
    ("later!", "Yours sincerely,"),
    ("ttyl <name2>", "I look forward to speaking with you. Yours sincerely, <name2>"),
)
_FAR_OPEN: _Pairs = (
    ("hey neighbours!", "Dear neighbours,"),
    ("hi <name> from upstairs,", "Dear <name>,"),
    ("ok whoever did this...", "To the person concerned,"),
)
_FAR_SAY: _Pairs = (
    (
        "who nicked the <thing> from the <spot>??",
        "I should like to enquire who has removed the <thing> from the <spot>.",
    ),
    (
        "music was super loud <day> nite.",
        "The music on <day> night was considerably louder than permitted.",
    ),
    ("can i borrow ur <thing> <day>?", "Would you be willing to lend me your <thing> on <day>?"),
    ("pls stop dumping junk in the <spot>.", "I kindly ask you not to leave refuse in the <spot>."),
    (
        "water's off at <time>, fyi.",
        "Please be informed that the water will be shut off at <time>.",
    ),
    (
        "bbq in the <spot> <day>, come over!",
        "You are cordially invited to a barbecue in the <spot> on <day>.",
    ),
    ("light in the <spot> is bust.", "The lighting in the <spot> is defective."),
    ("ur cat sleeps in the <spot> lol.", "Your cat is in the habit of sleeping in the <spot>."),
    ("left ur <thing> by the door.", "I have placed your <thing> beside your door."),
)
_FAR_CLOSE: _Pairs = (
    ("cheers from no. 7", "With kind regards from number seven"),
    ("ta!", "With many thanks."),
    ("<name2>, 2nd floor", "Yours faithfully, <name2>, second floor"),
)


def near(rng: random.Random) -> Exchange:
    return _message(rng, _NEAR_OPEN, _NEAR_SAY, _NEAR_CLOSE)


def far(rng: random.Random) -> Exchange:
    return _message(rng, _FAR_OPEN, _FAR_SAY, _FAR_CLOSE)


def _message(rng: random.Random, opens: _Pairs, says: _Pairs, closes: _Pairs) -> Exchange:
    pairs = [rng.choice(opens), *rng.sample(says, rng.choice((2, 3, 3, 4))), rng.choice(closes)]
    casual, formal = [], []
    for loose, strict in pairs:
        bound = bind(rng, _SLOTS, *_SLOTS) | {"name2": rng.choice(_SLOTS["name"])}
        casual.append(expand(rng, loose, _SLOTS, bound))
        formal.append(expand(rng, strict, _SLOTS, bound))
    return Exchange(" ".join(casual), " ".join(formal))
