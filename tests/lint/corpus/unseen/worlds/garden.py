"""Questions and advice about garden plants (near) and bicycles (far)."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, bind, expand

# (what is seen, why, what to do)
_NEAR_FAULTS = (
    (
        "yellow leaves at the bottom",
        "too much water and too little air at the roots",
        "let the top two inches dry out before you water again",
    ),
    (
        "white powder on the leaves",
        "powdery mildew, which likes dry roots and still air",
        "thin the growth and water the soil in the morning",
    ),
    (
        "curled tips and sticky shoots",
        "aphids sucking at the young growth",
        "hose them off every other day and leave the ladybirds alone",
    ),
    (
        "flowers that drop unopened",
        "a sudden change between warm days and cold nights",
        "move it or cover it with fleece until nights stay mild",
    ),
    (
        "holes in the leaves overnight",
        "slugs, which hide under pots by day",
        "go out with a torch after dusk and pick them off",
    ),
    (
        "brown edges on every leaf",
        "salt that gathered from too much feed",
        "flush the soil with plain water and skip feeding for a month",
    ),
    (
        "no fruit at all",
        "a lack of pollinators while it was in bloom",
        "plant borage beside it or move pollen with a soft brush",
    ),
    (
        "long thin stems",
        "too little light for the warmth it stands in",
        "give it a brighter, cooler place and pinch out the tops",
    ),
    (
        "black spots after rain",
        "a fungus that splashes up from fallen leaves",
        "clear the leaves away and mulch with straw",
    ),
    (
        "wilting although the soil is wet",
        "roots that have begun to rot",
        "lift it, cut the soft roots off and replant in gritty soil",
    ),
    (
        "fine webs under the leaves",
        "spider mites, a sign of hot dry air",
        "mist it daily and wipe the undersides with soapy water",
    ),
    (
        "pale leaves with green veins",
        "iron that it cannot take up from limy soil",
        "work in leaf mould and water with rain from a barrel",
    ),
)
_FAR_FAULTS = (
    (
        "a click with every pedal stroke",
        "a loose crank bolt",
        "tighten it to the torque stamped on the arm",
    ),
    (
        "a chain that skips under load",
        "worn teeth on the cassette",
        "measure the chain and replace both together",
    ),
    ("a squeal when stopping", "glazed brake pads", "sand the pads lightly and clean the rim"),
    ("a wobble at speed", "play in the headset", "reset the top cap until it just stops rocking"),
    (
        "a flat every other week",
        "a thorn left in the tyre",
        "feel along the inside and pull it out",
    ),
    (
        "stiff shifting in winter",
        "water frozen in the cable housing",
        "fit a new sealed cable and a drop of oil",
    ),
    (
        "a rubbing noise from the rear wheel",
        "a rim out of true",
        "turn the spokes beside the spot by a quarter",
    ),
    (
        "numb hands after an hour",
        "a saddle that tips you forward",
        "level the saddle and raise the bars a little",
    ),
)

_NEAR = {
    "thing": [
        *("tomato", "lemon tree", "rose", "hydrangea", "courgette", "basil", "apple tree"),
        *("camellia", "pepper plant", "fig", "geranium", "cucumber", "blueberry", "clematis"),
        *("lavender", "aubergine", "rhubarb", "sweet pea", "olive tree", "strawberry"),
    ],
    "place": [
        *("on the balcony", "in a raised bed", "in the greenhouse", "by the south wall"),
        *("in a terracotta pot", "under the pear tree", "on a windy terrace", "on the sill"),
        *("in heavy clay", "next to the compost"),
    ],
    "since": [
        "since (April|May|June|July)",
        "for (a week|two weeks|three weeks)",
        "after the (hot|wet) spell",
    ],
    "history": [
        "I planted it (two years ago|this spring|last autumn) and (feed|water) it (weekly|rarely).",
        "My neighbour says it is the (soil|weather|variety), but I am not sure.",
        "The (cherry|hedge|vine) beside it looks fine.",
        "We had (hail|frost|a drought) earlier in the year.",
        "It came from a (garden centre|plant swap|cutting) and did well at first.",
        "I already tried (coffee grounds|a new pot|less water) without luck.",
    ],
    "question": [
        "My <thing> <place> has <seen> <since>. <history> What can I do?",
        "<history> Now I see <seen> on the <thing> <place>. Any idea why?",
        "What causes <seen> on the <thing>? Mine stands <place>. <history>",
        "Help with my <thing>: <seen> <since>. It grows <place>. <history>",
        "Is <seen> <since> on my <thing> something to worry about? <history> It is <place>.",
    ],
    "answer": [
        "That is most likely <why>. For your <thing> <place>, <what>. <hope>",
        "With your <thing>, <seen> usually means <why>. <What>. <hope>",
        "I would suspect <why>. First <what>; <then>.",
        "The signs point to <why>. <What>, and <then>. <hope>",
    ],
    "hope": [
        "You should see a difference within (two|three|four) weeks.",
        "New growth will tell you whether it worked.",
        "The damaged parts will not recover, but the plant will.",
        "Be patient; your <thing> takes its time.",
        "If it spreads all the same, cut back by a third.",
    ],
    "then": [
        "then (watch|check|look at) it every (few days|Sunday|morning)",
        "after that keep to a steady routine",
        "leave it alone for a fortnight afterwards",
        "take off what is badly affected",
    ],
}
_FAR = _NEAR | {
    "thing": [
        *("touring bike", "folding bike", "gravel bike", "cargo bike", "tandem", "racing bike"),
        *("mountain bike", "city bike", "child's bike", "fixed-gear bike", "recumbent"),
    ],
    "place": [
        *("on the way to work", "on cobbles", "on long climbs", "in the rain", "with luggage"),
        *("on forest tracks", "with a child seat", "in traffic"),
    ],
    "since": [
        "since the last (service|tour|fall)",
        "for (a week|two weeks)",
        "after the (winter|move)",
    ],
    "history": [
        "I ride it (daily|at weekends|all year) and oil it (often|now and then).",
        "The shop changed the (tyres|chain|cables) in (March|May).",
        "It is (ten|six|three) years old and was bought (new|used).",
        "A friend lent me (a stand|tools), so I can work on it.",
        "It happens (sitting|standing|in every gear).",
    ],
    "question": [
        "My <thing> shows <seen> <place> <since>. <history> What is it?",
        "I notice <seen> on my <thing>, mostly <place>. <history> Can I fix that?",
        "<history> Since then my <thing> has <seen> <place>. Where do I start?",
    ],
    "hope": [
        "A short ride round the block will show it.",
        "If not, let a workshop look at the <thing>.",
        "It takes (ten|twenty) minutes with a hex key.",
        "Do one thing at a time, then test.",
    ],
}


def near(rng: random.Random) -> Exchange:
    return _advice(rng, _NEAR, _NEAR_FAULTS)


def far(rng: random.Random) -> Exchange:
    return _advice(rng, _FAR, _FAR_FAULTS)


def _advice(
    rng: random.Random, grammar: dict[str, list[str]], faults: tuple[tuple[str, str, str], ...]
) -> Exchange:
    seen, why, what = rng.choice(faults)
    bound = bind(rng, grammar, "thing", "place", "since")
    bound |= {"seen": seen, "why": why, "what": what, "What": what[:1].upper() + what[1:]}
    question = expand(rng, rng.choice(grammar["question"]), grammar, bound)
    answer = expand(rng, rng.choice(grammar["answer"]), grammar, bound)
    return Exchange(question, answer, bound)
