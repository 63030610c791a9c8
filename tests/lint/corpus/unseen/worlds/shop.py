"""Conversations of a garden shop's customer desk (near) and of a public library's (far)."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tests.lint.corpus.unseen.grammar import Exchange, bind, expand

Turns = list[tuple[str, str]]

_NEAR = {
    "item": [
        *("pruning saw", "rain barrel", "bird bath", "hammock", "parasol", "seed tray"),
        *("fire bowl", "garden gnome", "trellis", "watering can", "folding chair", "planter"),
        *("compost bin", "leaf rake", "solar lantern", "greenhouse shelf"),
    ],
    "colour": ["green", "grey", "terracotta", "black", "natural wood", "dark blue"],
    "number": ["(4|5|6)<d><d><d><d>"],
    "d": list("0123456789"),
    "town": ["Hexham", "Ludlow", "Kendal", "Whitby", "Totnes", "Oban", "Frome", "Cromer"],
    "days": ["two", "three", "four", "five"],
    "hello": [
        "Hi, I ordered a <colour> <item> and <trouble>.",
        "Hello! <Trouble>. It is about the <item> in <colour>.",
        "Good evening, my <item> for <town>: <trouble>.",
        "I have a question about a <item>, because <trouble>.",
    ],
    "trouble": [
        "it has not come yet",
        "one part is broken",
        "the colour is wrong",
        "there are two in the parcel",
        "the screws are missing",
        "I would like to send it back",
        "the courier left it in the rain",
        "I typed the wrong house number",
        "the bill shows another price",
    ],
    "ask": [
        "I am sorry to hear that. Could you give me the order number?",
        "Thank you for writing. Which number is on the order confirmation?",
        "That should not happen. May I have the order number, please?",
        "Let me look into it. What is the number of the order?",
    ],
    "give": [
        "It is <number>.",
        "Number <number>, ordered from <town>.",
        "<number>, if I read it right.",
        "The mail says <number>.",
    ],
    "act": [
        "I found order <number>. <deed> Does that suit you?",
        "Thank you, <number> is the <colour> <item>. <deed>",
        "Got it. For the <item> in order <number>: <deed> Anything else?",
    ],
    "deed": [
        "A new one leaves our depot in <days> days and you may keep the first.",
        "I have refunded the full price; it takes <days> working days.",
        "The courier will collect it within <days> days, free of charge.",
        "The missing parts go out by letter post today.",
        "I have corrected it and sent you a new confirmation.",
        "A voucher of ten percent is on its way as an apology.",
    ],
    "react": [
        "That is fine, but I am away (until Monday|next week|for a fortnight).",
        "Great. Could you send it to <town> instead?",
        "Yes. And will I get a confirmation?",
        "Good, although I had hoped for (something quicker|a discount|a phone call).",
        "Perfect, is there anything I have to (sign|print|pay)?",
    ],
    "settle": [
        "No trouble at all: I have put a note on order <number>.",
        "Of course. You will get a mail within the hour.",
        "I understand. We will hold it for you for <days> more days.",
        "Nothing further is needed from you.",
        "I have passed that on to the depot near <town>.",
    ],
    "bye": ["Thanks, that was quick.", "Lovely, thank you.", "All right then, goodbye.", "Super!"],
    "farewell": [
        "You are welcome. Enjoy the <item>!",
        "My pleasure, have a good day in the garden.",
        "Thank you for your patience, and all the best to <town>.",
        "Gladly. Write again whenever you like.",
    ],
}
_FAR = _NEAR | {
    "item": ["atlas", "cookbook", "novel", "language course", "board game", "film", "songbook"],
    "colour": ["borrowed", "reserved", "renewed", "large-print", "second-hand"],
    "hello": [
        "Good day, the <colour> <item> I have from you: <trouble>.",
        "Hi, may I ask something? I have a <colour> <item> and <trouble>.",
    ],
    "trouble": [
        "a page is torn",
        "it is due tomorrow and I am not finished",
        "the reminder says it was never returned",
        "somebody has written in it",
        "my card has expired",
    ],
    "ask": [
        "Certainly. What is the number on your reader's card?",
        "I can check that. Could you read me your card number?",
    ],
    "deed": [
        "I have extended the loan by <days> weeks.",
        "The fee has been waived.",
        "Please leave it at the counter, we will mend it.",
        "A new card can be picked up in <days> days.",
    ],
    "act": ["Thank you, I have card <number> here. <deed>", "Found you under <number>. <deed>"],
    "farewell": ["Happy reading!", "You are welcome, see you at the library in <town>."],
}


def near(rng: random.Random) -> Exchange:
    return _chat(rng, _NEAR)


def far(rng: random.Random) -> Exchange:
    return _chat(rng, _FAR)


def turns(exchange: Exchange) -> Turns:
    """The conversation, turn by turn, the customer first."""
    texts = exchange.prompt.split("\n")
    return [(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


def _chat(rng: random.Random, grammar: Mapping[str, list[str]]) -> Exchange:
    bound = bind(rng, grammar, "item", "colour", "number", "town", "days", "trouble")
    bound["Trouble"] = bound["trouble"][:1].upper() + bound["trouble"][1:]
    names = ["hello", "ask", "give", "act"]
    if rng.random() < 0.75:
        names += ["react", "settle"]
    if rng.random() < 0.6:
        names += ["bye", "farewell"]
    texts = [expand(rng, rng.choice(grammar[name]), grammar, bound) for name in names]
    return Exchange("\n".join(texts), "", bound)
