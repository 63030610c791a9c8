"""May it be reimbursed, yes or no: travel costs (near) and club funds (far)."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, expand

_NEAR = {
    "who": ["A (trainee|fitter|nurse|lecturer|driver|clerk) from (Bergen|Jena|Lille|Parma|Cork)"],
    "what": ["a hotel night", "a taxi ride", "a dinner with a client", "a train ticket", "parking"],
    "rule": [
        "We refund <what> up to <limit> euros if the receipt is handed in within <weeks> weeks.",
        "<What>: at most <limit> euros, receipt due after <weeks> weeks at the latest.",
        "The firm pays <what> of no more than <limit> euros if the form came in <weeks> weeks.",
    ],
    "case": [
        "<who> paid <cost> euros and sent the receipt after <late> weeks.",
        "<who> hands in a receipt of <cost> euros, <late> weeks after the trip.",
        "The bill was <cost> euros; <who> filed it <late> weeks later.",
    ],
    "aside": [
        "The trip went to a (fair|hearing|supplier|conference) and lasted (two|three|four) days.",
        "The manager had (agreed by mail|no objection|not been asked).",
        "It rained, and the (last bus|ferry|flight) had gone.",
        "The receipt is (creased|in French|a photo) but readable.",
        "It was the (first|third|fifth) trip this year.",
    ],
    "ask": ["Is it refunded?", "Does the company pay?", "Can this be reimbursed?"],
}
_FAR = _NEAR | {
    "who": ["A member of the (chess|rowing|choir|judo) section"],
    "what": ["new sheet music", "a coach's fee", "a boat hire", "tournament entry", "a trophy"],
    "rule": [
        "The club covers <what> to a limit of <limit> crowns, claimed within <weeks> weeks.",
        "Statutes, section four: <what> not above <limit> crowns, claim by week <weeks>.",
    ],
    "case": [
        "<who> spent <cost> crowns and claims it in week <late>.",
        "<who> asks for <cost> crowns after <late> weeks.",
    ],
    "aside": [
        "The treasurer is (new|ill|strict).",
        "The (summer fair|lottery) brought in plenty.",
        "Two (guests|juniors) had come along.",
        "The assembly meets in (March|October).",
    ],
    "ask": ["Does the club cover it?", "Is the claim granted?"],
}


def near(rng: random.Random) -> Exchange:
    return _claim(rng, _NEAR)


def far(rng: random.Random) -> Exchange:
    return _claim(rng, _FAR)


def _claim(rng: random.Random, grammar: dict[str, list[str]]) -> Exchange:
    granted = rng.random() < 0.5
    limit, weeks = rng.choice(range(20, 240, 5)), rng.choice((2, 3, 4, 6, 8, 12))
    cost, late = rng.choice(range(limit // 2, limit + 1)), rng.choice(range(1, weeks + 1))
    if not granted:
        too_dear, too_late = rng.choice(((True, False), (False, True), (True, True)))
        cost = cost if not too_dear else rng.choice(range(limit + 1, 2 * limit))
        late = late if not too_late else weeks + rng.choice((1, 2, 3, 5))
    what = rng.choice(grammar["what"])
    bound = {"what": what, "What": what[:1].upper() + what[1:], "limit": str(limit)}
    bound |= {"weeks": str(weeks), "cost": str(cost), "late": str(late)}
    asides = rng.sample(grammar["aside"], rng.choice((1, 2)))
    parts = [rng.choice(grammar["rule"]), rng.choice(grammar["case"]), *asides]
    text = " ".join(
        expand(rng, part, grammar, bound) for part in [*parts, rng.choice(grammar["ask"])]
    )
    return Exchange(text + " Answer yes or no.", "yes" if granted else "no")
