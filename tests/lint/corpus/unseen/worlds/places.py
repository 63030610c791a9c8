"""Passages about museums (near) and hiking trails (far), a question on each, and its answer."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, bind, expand

_NEAR = {
    "place": ["the <kind> Museum in <town>", "the <town> (House|Collection) of <kind>s"],
    "kind": [
        *("Clock", "Lace", "Salt", "Railway", "Toy", "Bread", "Lantern", "Carpet", "Whaling"),
        *("Printing", "Puppet", "Mining", "Pottery", "Saddle"),
    ],
    "town": [
        *("Aldmere", "Brackenford", "Coldstow", "Dunnvik", "Eastrey", "Fallow Hill", "Garnsee"),
        *("Holmby", "Ivelock", "Kestwick", "Lorrach", "Merrow", "Norbeck", "Ostrave"),
    ],
    "year": ["1(8|9)<d><d>"],
    "d": list("0123456789"),
    "person": [
        "(Ada|Bertil|Clara|Dov|Edda|Florian|Greta|Hamid) (Aumann|Brook|Castell|Dahl|Ekwall|Fenn)"
    ],
    "price": ["(four|five|six|eight|nine|eleven) euros", "(three|seven|ten) crowns"],
    "closed": ["Mondays", "Tuesdays", "Wednesdays", "Sundays in winter", "public holidays"],
    "pride": [
        *("a loom of oak", "a map on silk", "the smallest bell of the region", "a glass organ"),
        *("the diary of a smuggler", "a model of the harbour", "nine painted doors"),
    ],
    "count": ["(two|three|six|nine) (hundred|thousand) (objects|pieces)"],
    "fact": [
        "It was founded in <year> by <person>.",
        "<person> opened it in <year> in (a former mill|the old school|rooms above a bakery).",
        "Admission is <price>.",
        "Visitors pay <price> at the door.",
        "It is closed on <closed>.",
        "Its greatest pride is <pride>.",
        "Most people come for <pride>.",
        "About <count> are on show.",
        "The stores hold <count>.",
        "A (guide|volunteer|student) leads tours (twice a day|at noon|on request).",
        "The (cafe|garden|shop) was added (recently|a decade ago|after the flood).",
    ],
    "intro": [
        "You reach <place> by (bus|tram|ferry|a short walk from the station).",
        "Few travellers know <place>.",
        "<town> has more to offer than its (bridge|castle|market): there is <place>.",
        "A rainy day is well spent in <place>.",
    ],
    "ask_year": ["When was it founded?", "In which year did it open?", "How long has it existed?"],
    "say_year": ["It was founded in <year>.", "In <year>.", "Since <year>."],
    "ask_person": ["Who founded it?", "Whose idea was it?", "By whom was it opened?"],
    "say_person": ["It was founded by <person>.", "<person> did.", "<person>."],
    "ask_price": ["What does it cost to get in?", "How much is a ticket?", "What do visitors pay?"],
    "say_price": ["Admission is <price>.", "<price> a person.", "A ticket costs <price>."],
    "ask_closed": ["When is it closed?", "On which days can one not visit?"],
    "say_closed": ["It is closed on <closed>.", "On <closed>."],
    "ask_pride": ["What is it best known for?", "Which piece should one not miss?"],
    "say_pride": ["It is best known for <pride>.", "One should not miss <pride>."],
}
_FAR = _NEAR | {
    "place": ["the <kind> Trail near <town>"],
    "kind": ["Heron", "Quarry", "Ridge", "Pilgrim", "Charcoal", "Otter", "Seven Lakes", "Border"],
    "fact": [
        "<person> marked it in <year>.",
        "It was laid out in <year>, an idea of <person>.",
        "A permit costs <price>.",
        "The gate stays shut on <closed>.",
        "On the way stands <pride>.",
        "It climbs (300|450|700) metres in all.",
        "(Boots|Poles|Gaiters) (and water are|are) advised.",
        "The (hut|spring|ford) lies (halfway|near the end).",
    ],
    "intro": ["Walkers praise <place>.", "North of <town> begins <place>."],
    "pride": [
        "a hollow lime tree",
        "a stone with runes",
        "an old lift of iron",
        "a chapel of slate",
    ],
    "ask_year": ["When was it laid out?", "How old is the trail?"],
    "say_year": ["It dates from <year>.", "It was laid out in <year>."],
    "ask_person": ["Who had the idea?", "Who marked it?"],
    "say_person": ["That was <person>.", "<person> did."],
    "ask_price": ["What is the permit?", "How much is a permit?"],
    "say_price": ["A permit costs <price>."],
    "ask_closed": ["When is the gate shut?"],
    "say_closed": ["The gate is shut on <closed>."],
    "ask_pride": ["What does one see on the way?"],
    "say_pride": ["One passes <pride>."],
}
_ASKED = ("year", "person", "price", "closed", "pride")


def near(rng: random.Random) -> Exchange:
    return _passage(rng, _NEAR)


def far(rng: random.Random) -> Exchange:
    return _passage(rng, _FAR)


def _passage(rng: random.Random, grammar: dict[str, list[str]]) -> Exchange:
    names = ("kind", "town", "place", "year", "person", "price", "closed", "pride", "count")
    bound = bind(rng, grammar, *names)
    asked = rng.choice(_ASKED)
    telling = [fact for fact in grammar["fact"] if f"<{asked}>" in fact]
    fact = rng.choice(telling)
    others = [other for other in grammar["fact"] if other not in telling]
    facts = [fact, *rng.sample(others, 3)]
    rng.shuffle(facts)
    parts = [rng.choice(grammar["intro"]), *facts]
    context = " ".join(_capital(expand(rng, part, grammar, bound)) for part in parts)
    question = expand(rng, rng.choice(grammar[f"ask_{asked}"]), grammar, bound)
    answer = _capital(expand(rng, rng.choice(grammar[f"say_{asked}"]), grammar, bound))
    return Exchange(question, answer, {"context": context})


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
