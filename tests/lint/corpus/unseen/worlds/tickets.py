"""Support tickets of a project-management tool (near) and of a fitness watch (far), by label."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, expand

LABELS = ("billing", "access", "bug", "feature request", "cancellation")

_SHARED = {
    "opener": [
        "Hi team,",
        "Hello,",
        "Good morning,",
        "Hey there,",
        "Dear support,",
        "",
        "To whom it may concern:",
        "Hi, (Marta|Jonas|Priya|Oluwaseun|Beth|Tomasz) here.",
        "Quick one:",
        "Second attempt, my first mail bounced.",
    ],
    "closer": [
        "Thanks a lot, <name>",
        "Regards, <name>",
        "Please (advise|let me know|get back to me) (today|this week|before Friday).",
        "I am in meetings until (noon|three), so mail is best.",
        "",
        "Cheers, <name>",
        "Happy to send screenshots.",
        "We have been customers since 20(15|16|17|18|19|20|21|22).",
        "My reference is (K|T|R)-<digit><digit><digit><digit>.",
        "Sent from my phone, excuse the typos.",
    ],
    "name": ["Marta", "Jonas", "Priya", "Oluwaseun", "Beth", "Tomasz", "Ines", "Farid", "Yuki"],
    "digit": list("0123456789"),
    "month": ["January", "March", "April", "June", "August", "October", "December"],
    "amount": ["12", "19", "29", "48", "65", "84", "120", "240"],
}

_NEAR = _SHARED | {
    "billing": [
        "The invoice for <month> lists <amount> seats but only half of us are active.",
        "We were charged <amount> euros twice on the (3rd|9th|17th|26th).",
        "Our accounting department needs the VAT number on the <month> receipt.",
        "The (annual|nonprofit|student) discount is missing from the latest bill.",
        "Can the payment be moved from the company card to a bank transfer?",
        "You quoted <amount> per month and the statement says something else.",
    ],
    "access": [
        "Since the (weekend|migration|holidays) I am stuck at the sign-in page.",
        "The reset mail for my password never arrives, spam folder included.",
        "A new colleague gets 'not authorised' when opening the <area>.",
        "Single sign-on sends us round in circles between two pages.",
        "I changed phones and the second factor still asks for the old one.",
        "My account was locked after three tries and stays locked.",
    ],
    "bug": [
        "Dragging a card in the <area> duplicates it.",
        "The <area> shows yesterday's dates for everyone east of (Berlin|Warsaw|Athens).",
        "Exporting the <area> produces an empty file in (Firefox|Safari|Edge).",
        "Comments with an umlaut turn into question marks after saving.",
        "The <area> freezes for a minute whenever more than <amount> tasks are open.",
        "Since the update attachments over <amount> MB fail without a message.",
    ],
    "feature request": [
        "It would be great if the <area> could be filtered by (owner|week|client).",
        "Have you considered a dark theme for the <area>?",
        "We would love to import tasks from a spreadsheet directly.",
        "Could you add a keyboard shortcut for assigning a task?",
        "Is a read-only link to the <area> for clients on your roadmap?",
        "Please think about recurring tasks that skip public holidays.",
    ],
    "cancellation": [
        "We are moving to another tool, so please end the subscription by <month>.",
        "Kindly close our workspace and confirm that all data is erased.",
        "The project is over and we will not renew in <month>.",
        "How do I stop the plan before the next period starts?",
        "Management decided against continuing, please terminate the contract.",
        "I no longer need the account after <month>, take me off.",
    ],
    "area": ["board", "calendar", "timeline", "report page", "time sheet", "backlog", "archive"],
    "detail": [
        "It affects our (design|sales|field|legal) group of <amount> people.",
        "I asked in the chat (twice|on Monday|last month) and was sent here.",
        "My manager wants an answer for the (quarterly|weekly|board) meeting.",
        "The help article about the <area> did not cover it.",
        "We run the (basic|team|enterprise) edition in (Lyon|Porto|Graz|Leeds|Turku).",
        "Nothing else changed on our side, same laptops and same network.",
        "This is the (first|second|third) time since <month>.",
        "A colleague from (procurement|marketing|IT) asked me to write.",
    ],
}

_FAR = _SHARED | {
    "billing": [
        "I bought the premium coaching for <amount> pounds and see two debits.",
        "The gift voucher was not deducted when I ordered the strap.",
        "My bank shows a charge from you in <month> that I cannot place.",
        "Where is the receipt for the watch I picked up in the store?",
    ],
    "access": [
        "The app logs me out each time the watch syncs.",
        "I forgot which mail address I registered the watch with.",
        "The pairing code on my wrist is rejected over and over.",
        "After a factory reset I cannot reach my training history.",
    ],
    "bug": [
        "Heart rate jumps to <amount> while I sit on the sofa.",
        "The lap counter in the pool adds two lengths per turn.",
        "Sleep from (Monday|Thursday|Sunday) shows up on the wrong day.",
        "The compass points south when the torch is lit.",
    ],
    "feature request": [
        "Any chance of a profile for (rowing|climbing|ice skating)?",
        "I wish the alarm could wake me in light sleep only.",
        "Could swim pace be shown per hundred yards?",
        "Please let us upload our own dials.",
    ],
    "cancellation": [
        "Stop my premium coaching, I am injured until <month>.",
        "Please delete my profile and everything recorded with it.",
        "I returned the watch, so the membership should end too.",
        "I do not want the trial to turn into a paid year.",
    ],
    "detail": [
        "The watch is the (small|large|titanium) one from <month>.",
        "I run about <amount> kilometres a week and rely on it.",
        "My (coach|wife|brother) has the same model without trouble.",
        "Firmware <digit>.<digit><digit> is installed.",
        "The battery was above <amount> percent at the time.",
        "The shop in (Bristol|Cork|Malmo|Utrecht) could not help.",
        "I have restarted it (twice|several times|this morning).",
        "A marathon is coming up in <month>, hence the hurry.",
    ],
}


def near(rng: random.Random) -> Exchange:
    return _ticket(rng, _NEAR)


def far(rng: random.Random) -> Exchange:
    return _ticket(rng, _FAR)


def templated(exchange: Exchange) -> Exchange:
    """The ticket inside the prompt that asks for its label."""
    prompt = (
        "Classify the support ticket as one of: " + ", ".join(LABELS) + ".\n\n"
        f"Ticket: {exchange.prompt}\n\nLabel:"
    )
    return Exchange(prompt, exchange.answer, exchange.facts)


def _ticket(rng: random.Random, grammar: dict[str, list[str]]) -> Exchange:
    label = rng.choice(LABELS)
    details = rng.sample(grammar["detail"], rng.choice((1, 2, 2)))
    middle = [rng.choice(grammar[label]), *details]
    if rng.random() < 0.3:
        middle = [details[0], middle[0], *details[1:]]
    parts = [rng.choice(grammar["opener"]), *middle, rng.choice(grammar["closer"])]
    text = " ".join(expand(rng, part, grammar) for part in parts if part)
    return Exchange(text, label, {"label": label})
