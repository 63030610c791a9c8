"""Coastal weather bulletins (near) and mountain bulletins (far), as plain text."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, expand

_NEAR = {
    "head": [
        "Bulletin for <area>, issued (at dawn|at noon|in the evening) on (1|2)<d> <month>.",
        "<area>, forecast number <d><d> for (the night|today|tomorrow).",
        "Coastal forecast, <area>, valid for (twelve|twenty-four) hours from (six|nine|eighteen).",
    ],
    "area": [
        *("Skerry Sound", "the Gull Banks", "Fair Haven", "the Long Reach", "Tern Point"),
        *("Amber Bay", "the Outer Shoals", "Pilot Roads", "Mussel Strait"),
    ],
    "d": list("1234567"),
    "month": ["March", "May", "August", "September", "November"],
    "wind": ["(north|south|west|east)(erly|erly, later backing|erly, veering) (3|4|5) to (6|7|8)"],
    "line": [
        "Wind <wind>.",
        "Gusts of up to (9|10) (near headlands|in showers|after dark).",
        "Sea (slight|moderate|rough), swell from the (west|north) of (one|two|three) metres.",
        "Visibility (good|moderate|poor in (rain|fog)).",
        "Showers at first, (clearing|easing|turning to drizzle) by (noon|dusk).",
        "Air pressure (falls slowly|rises|holds), (998|1004|1012|1019) at the last reading.",
        "Water temperature (7|9|12|15|17) degrees at the pier.",
        "Small craft are advised to (stay in harbour|keep to the lee|return before dark).",
        "High water at (3|5|8|11):(10|25|40), low water some six hours later.",
        "A buoy is unlit (north|south) of <area>.",
        "Fog banks linger off <area> until (mid-morning|the tide turns).",
        "Dredging goes on in <area>; pass with care.",
    ],
    "end": [
        "Next bulletin in (six|twelve) hours.",
        "Outlook: (settled|changeable|little change).",
        "Further notice follows on channel (12|14|16).",
    ],
}
_FAR = _NEAR | {
    "head": [
        "Mountain report for <area>, (1|2)<d> <month>.",
        "<area>, situation (this morning|this evening):",
        "Avalanche service, <area>, report <d><d>.",
    ],
    "area": ["the Hohe Wand", "Raven Pass", "the Upper Glen", "Chamois Ridge", "Larch Bowl"],
    "line": [
        "Danger level (two|three|four) above (1,600|1,900|2,200) metres.",
        "Fresh snow of (10|25|40) centimetres lies on a weak layer.",
        "Wet slides are likely on (south|east) faces after (ten|noon).",
        "The hut road is (open|closed|open with chains).",
        "Cornices on (north|west) ridges may break.",
        "Freezing level near (1,200|1,800|2,400) metres.",
        "Marked pistes are (safe|partly shut).",
        "Keep distance on steep slopes near <area>.",
    ],
}


def near(rng: random.Random) -> Exchange:
    return _bulletin(rng, _NEAR)


def far(rng: random.Random) -> Exchange:
    return _bulletin(rng, _FAR)


def _bulletin(rng: random.Random, grammar: dict[str, list[str]]) -> Exchange:
    lines = rng.sample(grammar["line"], rng.choice((4, 5, 6)))
    parts = [rng.choice(grammar["head"]), *lines, rng.choice(grammar["end"])]
    return Exchange(" ".join(expand(rng, part, grammar) for part in parts), "")
