"""Dictated visit notes of a practice (near) and of a veterinary surgery (far), and their JSON."""

from __future__ import annotations

import json
import random

from tests.lint.corpus.unseen.grammar import Exchange, bind, expand

KEYS = ("subject", "complaint", "duration_days", "drug", "dose", "follow_up")

SCHEMA = {
    "type": "object",
    "properties": {
        "subject": {"type": "string"},
        "complaint": {"type": "string"},
        "duration_days": {"type": "integer", "minimum": 1},
        "drug": {"type": ["string", "null"]},
        "dose": {"type": ["string", "null"]},
        "follow_up": {"type": "string"},
    },
    "required": list(KEYS),
    "additionalProperties": False,
}

_NEAR_DOSES = {
    "ibuprofen": ("400 mg three times daily", "200 mg twice a day", "400 mg as needed"),
    "paracetamol": ("500 mg four times daily", "1 g three times a day"),
    "cetirizine": ("10 mg at night", "5 mg twice a day"),
    "omeprazole": ("20 mg before breakfast", "40 mg once daily"),
    "naproxen": ("250 mg twice daily", "500 mg in the evening"),
    "loratadine": ("10 mg once a day",),
    "xylometazoline": ("one puff per nostril twice a day", "one puff at night"),
    "diclofenac gel": ("a thin layer three times daily", "a thin layer twice a day"),
    "melatonin": ("2 mg at night", "3 mg one hour before bed"),
}
_FAR_DOSES = {
    "meloxicam": ("0.1 mg per kg once daily", "0.05 mg per kg once daily"),
    "fenbendazole": ("50 mg per kg for three days",),
    "gabapentin": ("10 mg per kg twice daily", "5 mg per kg at night"),
    "ear cleanser": ("five drops per ear twice daily", "three drops per ear at night"),
    "probiotic paste": ("2 ml with the feed", "1 ml twice daily"),
}
_DOSES = _NEAR_DOSES | _FAR_DOSES

_NEAR = {
    "subject": ["(man|woman), <age> years"],
    "age": [str(age) for age in range(19, 88)],
    "complaint": [
        *("sore throat", "knee pain", "dry cough", "itchy rash", "lower back pain", "migraine"),
        *("heartburn", "ear ache", "swollen ankle", "dizziness", "blocked nose", "insomnia"),
        *("painful wrist", "burning eyes", "loose stools", "stiff neck", "nosebleeds"),
    ],
    "drug": list(_NEAR_DOSES),
    "follow_up": [
        *("in one week", "in two weeks", "only if no better", "in three days", "by telephone"),
        *("after the blood results", "in one month"),
    ],
    "start": [
        "Seen today: <subject>. Comes with <complaint>, going on for <days> days.",
        "<subject>, presents because of <complaint> that began <days> days ago.",
        "Dictating for <subject>. Main problem is <complaint>. Duration <days> days.",
        "Walk-in (this morning|after lunch|at half four): <subject>; <complaint> for <days> days.",
        "For <days> days now <complaint>, says the patient (<subject>).",
    ],
    "finding": [
        "Temperature 3(6|7|8).(1|3|5|8), pulse (62|70|78|84|91).",
        "Works as a (baker|bus driver|teacher|welder|nurse) and (slept badly|carried on).",
        "No allergies known, (does not smoke|smokes ten a day|gave up smoking in spring).",
        "(Lungs clear|Abdomen soft|Joints mobile|Ears unremarkable) on examination.",
        "Had something similar (two years ago|as a child|last winter) and it settled.",
        "Worried because (a colleague|a cousin|the father) had the same.",
        "(Mild|Moderate|Marked) tenderness, no swelling to speak of.",
        "Blood pressure 1(18|24|32|41) over (72|78|80|86).",
    ],
    "treated": [
        "I gave <drug>, <dose>.",
        "Prescribed <drug> <dose> (with food|before meals|for five days).",
        "Plan: <drug>, <dose>, and plenty of rest.",
        "Started on <drug> at <dose>.",
    ],
    "untreated": [
        "No medicine for now, (fluids and rest|exercises shown|compresses).",
        "We agreed to wait without any drug.",
        "Nothing prescribed, advice given in writing.",
    ],
    "end": [
        "Review <follow_up>.",
        "Follow-up <follow_up>, sooner if (worse|feverish).",
        "To be seen again <follow_up>.",
        "Next contact <follow_up>.",
    ],
}

_FAR = _NEAR | {
    "subject": ["(dog|cat|rabbit|pony|goat|parrot), <age> (months|years)"],
    "age": [str(age) for age in range(2, 16)],
    "complaint": [
        *("limping on the left hind leg", "refusing food", "hair loss", "scratching the ears"),
        *("coughing at night", "drinking a lot", "a torn claw", "watery eyes", "a bitten tail"),
    ],
    "drug": list(_FAR_DOSES),
    "start": [
        "<subject>, brought by the owner with <complaint>, <days> days already.",
        "Farm call to a <subject>: <complaint> noticed <days> days back.",
        "Emergency slot, <subject>. <complaint> for <days> days.",
    ],
    "finding": [
        "Weight (4|9|17|26) kg, coat dull.",
        "Gums pink, (calm|nervous|snapping) on the table.",
        "Lives (indoors|in a barn|with three others), vaccinated last (May|autumn).",
        "Palpation (painless|resented), temperature 38.(4|6|9).",
        "Owner had changed the (feed|bedding|collar) shortly before.",
        "Teeth with tartar, otherwise fine.",
    ],
    "untreated": ["No drug yet, we watch and weigh.", "Only a wash today, no medicine."],
}


def near(rng: random.Random) -> Exchange:
    return _note(rng, _NEAR)


def far(rng: random.Random) -> Exchange:
    return _note(rng, _FAR)


def asked(exchange: Exchange) -> Exchange:
    """The note under the instruction to extract it."""
    prompt = (
        "Extract the visit as JSON with the keys " + ", ".join(KEYS) + ". Use null for what is not "
        f"in the note.\n\n{exchange.prompt}"
    )
    return Exchange(prompt, exchange.answer, exchange.facts)


def _note(rng: random.Random, grammar: dict[str, list[str]]) -> Exchange:
    facts = bind(rng, grammar, "subject", "complaint", "drug", "follow_up")
    facts["dose"] = rng.choice(_DOSES[facts["drug"]])
    days = rng.choice((2, 3, 4, 5, 6, 8, 10, 12, 14, 20, 21, 30))
    treated = rng.random() < 0.8
    parts = [
        rng.choice(grammar["start"]),
        *rng.sample(grammar["finding"], rng.choice((2, 3))),
        rng.choice(grammar["treated" if treated else "untreated"]),
        rng.choice(grammar["end"]),
    ]
    bound = facts | {"days": str(days)}
    text = " ".join(_capital(expand(rng, part, grammar, bound)) for part in parts)
    record = {
        "subject": facts["subject"],
        "complaint": facts["complaint"],
        "duration_days": days,
        "drug": facts["drug"] if treated else None,
        "dose": facts["dose"] if treated else None,
        "follow_up": facts["follow_up"],
    }
    return Exchange(text, json.dumps(record), bound)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
