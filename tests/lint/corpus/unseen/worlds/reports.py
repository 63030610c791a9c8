"""Incident reports of a warehouse (near) and minutes of a town council (far), and summaries."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, bind, expand

_NEAR = {
    "when": ["On (Monday|Tuesday|Thursday|Saturday)", "On (2|5|11|19|23|28) (May|June|July|March)"],
    "clock": ["(6|7|9|10|11|13|14|16|18|21):(05|10|20|35|40|55)"],
    "where": ["(hall|bay|ramp|aisle|gate) (two|three|five|seven|nine|eleven)", "the cold store"],
    "what": [
        *("a forklift struck a rack", "a pallet of paint tipped over", "the sprinkler leaked"),
        *("a lorry rolled against the dock", "the conveyor belt tore", "a battery overheated"),
        *("the scanner network went down", "a crate of glass fell", "the shutter jammed half open"),
        *("a drum of cleaning agent was punctured", "the label printer mixed up two orders"),
    ],
    "why": [
        *("a worn brake", "a missing wheel chock", "a misread label", "a loose floor plate"),
        *("an overdue inspection", "a software update during the shift", "a blocked drain"),
        *("poor lighting", "an overloaded shelf", "a new driver working alone"),
    ],
    "loss": [
        *("nobody was hurt", "one person bruised a hand", "goods worth (400|900|2,300) were lost"),
        *("work stopped for (forty minutes|two hours|half a day)", "six orders left late"),
    ],
    "fix": [
        *("the part was replaced the same day", "the area is closed until the repair"),
        *("the inspection interval is monthly", "drivers repeat the induction"),
        *("a second sign has been put up", "the supplier will deliver a stronger version"),
        *("the update runs at night only", "a mirror was fitted at the corner"),
    ],
    "body": [
        "<when> at <clock>, <what> in <where>. <act>",
        "The early shift reports from <where>: <when>, shortly after <clock>, <what>.",
        "<when> the alarm from <where> came in at <clock>. Staff found that <what>.",
    ],
    "act": ["The shift lead (closed the area|called the office|stopped all traffic) at once."],
    "filler": [
        "Two colleagues (saw it from the gallery|were close by|helped to clear up).",
        "Photographs were taken before anything was moved.",
        "The weather was (dry|wet|frosty), which played no part.",
        "The works council was informed (at noon|by mail|in the evening).",
        "The camera above the door had (recorded it|been out of order).",
        "Temporary staff made up (a third|half) of the crew.",
        "Deliveries were sent round through the (north|rear|old) entrance.",
    ],
    "cause": [
        "The inquiry names <why> as the cause.",
        "It came down to <why>.",
        "As far as we know <why> was to blame.",
    ],
    "result": ["As a result <loss>.", "In the end <loss>.", "The outcome: <loss>."],
    "measure": ["Since then <fix>.", "It was decided that <fix>.", "Measure: <fix>."],
    "summary": [
        "<What> in <where> because of <why>; <loss>, and <fix>.",
        "Owing to <why>, <what> in <where>. <Loss>. Since then <fix>.",
        "In <where> <what>, caused by <why>: <loss>. Consequence: <fix>.",
    ],
}
_FAR = _NEAR | {
    "where": ["the (library|school|harbour|park|market|sports) committee"],
    "what": [
        *("the new cycle path was discussed", "a petition on street noise was handed in"),
        *("the swimming hours were extended", "the budget for trees was cut"),
        *("the request for a skate park was put off", "a twin town was proposed"),
    ],
    "why": ["falling revenue", "letters from residents", "a new regulation", "a survey in spring"],
    "loss": ["nine voted for it", "the vote was unanimous", "two members abstained"],
    "fix": [
        *("the mayor reports in autumn", "the office draws up a plan", "a working group is formed"),
        *("residents will be invited", "the costs are to be checked"),
    ],
    "body": [
        "<when> the session opened at <clock>. In <where> <what>.",
        "Minutes of <where>, start <clock>. <when> <what>.",
    ],
    "filler": [
        "Some (twenty|thirty|fifty) listeners were in the gallery.",
        "The chair thanked the (fire brigade|volunteers|treasurer).",
        "A member asked about (parking|lamps|benches) and will get an answer in writing.",
        "There was a break of (ten|fifteen) minutes.",
        "The previous minutes were approved.",
    ],
}


def near(rng: random.Random) -> Exchange:
    return _report(rng, _NEAR)


def far(rng: random.Random) -> Exchange:
    return _report(rng, _FAR)


def _report(rng: random.Random, grammar: dict[str, list[str]]) -> Exchange:
    bound = bind(rng, grammar, "when", "clock", "where", "what", "why", "loss", "fix")
    for name in ("what", "loss"):
        bound[name.capitalize()] = bound[name][:1].upper() + bound[name][1:]
    fillers = rng.sample(grammar["filler"], rng.choice((2, 3)))
    parts = [rng.choice(grammar["body"]), fillers[0]]
    parts += [rng.choice(grammar["cause"]), fillers[1], rng.choice(grammar["result"])]
    parts += [*fillers[2:], rng.choice(grammar["measure"])]
    text = " ".join(expand(rng, part, grammar, bound) for part in parts)
    return Exchange(text, expand(rng, rng.choice(grammar["summary"]), grammar, bound), bound)
