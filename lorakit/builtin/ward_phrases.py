"""How people word their messages: one set of phrases for training, another one never trained.

`{a patient}` is the patient with article, age and sex; `{complaint}` what brought them, `{he}`,
`{him}` the pronouns, `{number}` and `{unit}` a duration.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """Ways to say each part of a message; names of vital signs are one mapping per style.

    Attributes:
        seen_again: the word for the next visit, the same in message and note.
        patients: noun phrases of `{age}` and `{noun}` without article.
        durations: how `{complaint}` says how long.
        openings: a sentence on the patient with the complaint.
        openings_alone: the same where nobody told the complaint.
        vital_names: {vital sign: form of its number `{}`}.
        measured: how the list of vital signs is introduced.
        orders: asking for an order of sections; `{first}`, `{rest}` or the whole `{order}`.
        lists: what stands between two headings of such an order.
    """

    seen_again: str
    patients: tuple[str, ...]
    durations: tuple[str, ...]
    openings: tuple[str, ...]
    openings_alone: tuple[str, ...]
    vital_names: tuple[dict[str, str], ...]
    measured: tuple[str, ...]
    assessments: tuple[str, ...]
    treatments: tuple[str, ...]
    next_visits: tuple[str, ...]
    warnings: tuple[str, ...]
    asides: tuple[str, ...]
    requests: tuple[str, ...]
    orders: tuple[str, ...]
    lists: tuple[str, ...]


TRAINED_PHRASES = Phrases(
    seen_again="review",
    patients=("{age} year old {noun}", "{age}-year-old {noun}", "{noun} of {age}"),
    durations=(
        "{number} {unit} of {complaint}",
        "{complaint} for the past {number} {unit}",
        "{complaint} that started {number} {unit} ago",
    ),
    openings=(
        "{Patient}, came in with {complaint}.",
        "{Patient} with {complaint}.",
        "{Patient}, {complaint}.",
        "{Patient}, complains of {complaint}.",
        "I saw {a patient} with {complaint}.",
        "In room {bed} is {a patient} with {complaint}.",
        "{A patient} came to us because of {complaint}.",
        "New patient, {a patient} with {complaint}.",
        "Saw {a patient} just now, main problem is {complaint}.",
    ),
    openings_alone=(
        "{Patient}, came in today.",
        "I saw {a patient}.",
        "In room {bed} is {a patient}.",
        "New patient, {a patient}.",
    ),
    vital_names=(
        {
            "blood pressure": "bp {over}",
            "pulse": "pulse {}",
            "temperature": "temp {}",
            "saturation": "sats {}",
            "breathing": "resp rate {}",
        },
        {
            "blood pressure": "BP {}",
            "pulse": "HR {}",
            "temperature": "temp {}",
            "saturation": "sats {}%",
            "breathing": "RR {}",
        },
        {
            "blood pressure": "blood pressure {}",
            "pulse": "pulse {}",
            "temperature": "temperature {}",
            "saturation": "oxygen saturation {}",
            "breathing": "breathing rate {}",
        },
        {
            "blood pressure": "blood pressure {over}",
            "pulse": "heart rate {}",
            "temperature": "temperature {} degrees",
            "saturation": "oxygen {} percent",
            "breathing": "respiratory rate {}",
        },
    ),
    measured=("{}.", "{}.", "Vitals: {}.", "Obs are {}.", "On arrival {}.", "I measured {}."),
    assessments=(
        "Looks like {} to me.",
        "I think this is {}.",
        "This is {}.",
        "Most likely {}.",
        "The diagnosis is {}.",
        "It fits with {}.",
        "We are treating this as {}.",
    ),
    treatments=(
        "Start {}.",
        "We start {}.",
        "Give {}.",
        "I put {him} on {}.",
        "{He} gets {}.",
        "Please give {}.",
        "I ordered {}.",
        "{He} needs {}.",
    ),
    next_visits=("Book a {} please.", "{He} comes for a {}.", "I want a {}.", "Then {}."),
    warnings=(
        "{He} should come back if {}.",
        "Told {him} to come back at once if {}.",
        "Come back if {}.",
        "{He} knows to return if {}.",
        "{He} must return right away if {}.",
        "I told {him} to return if {}.",
    ),
    asides=(
        "The weather is awful today.",
        "The coffee machine is broken again.",
        "{His} daughter visited this morning.",
        "{His} brother waits outside.",
        "Sorry for the typos.",
        "I am in a hurry.",
        "The ward is full tonight.",
        "{He} likes football.",
        "{He} reads a lot.",
        "The printer is out of paper.",
        "My shift ends in an hour.",
        "Parking was hard to find.",
        "{He} has a nice dog.",
        "The food was cold again.",
    ),
    requests=(
        "Write the note.",
        "Please write the note.",
        "Please write this up.",
        "Document this.",
        "Can you make a note of this?",
        "Note please.",
    ),
    orders=(
        "Order: {order}.",
        "Use this order: {order}.",
        "Use the order {order}.",
        "Sections in this order: {order}.",
        "The order should be {order}.",
        "Start with {first}, then {rest}.",
        "First {first}, then {rest}.",
    ),
    lists=(", ",),
)

UNSEEN_PHRASES = Phrases(
    seen_again="recheck",
    patients=("{noun} aged {age}", "{noun}, {age} years,"),
    durations=(
        "{complaint} over the last {number} {unit}",
        "{complaint}, going on for {number} {unit}",
    ),
    openings=(
        "{A patient} turned up with {complaint}.",
        "Today we had {a patient} here for {complaint}.",
        "{A patient} reports {complaint}.",
        "{A patient} was sent to us with {complaint}.",
        "Next is {a patient}, suffering from {complaint}.",
    ),
    openings_alone=(
        "This is about {a patient}.",
        "{A patient} was sent to us.",
        "Today we had {a patient} here.",
    ),
    vital_names=(
        {
            "blood pressure": "blood pressure was {over}",
            "pulse": "pulse was {}",
            "temperature": "temperature was {}",
            "saturation": "oxygen saturation was {}",
            "breathing": "breathing rate was {}",
        },
        {
            "blood pressure": "BP of {}",
            "pulse": "pulse of {}",
            "temperature": "temp of {}",
            "saturation": "sats of {}",
            "breathing": "resp rate of {}",
        },
        {
            "blood pressure": "bp is {}",
            "pulse": "heart rate is {}",
            "temperature": "temp is {}",
            "saturation": "oxygen is {}",
            "breathing": "respiratory rate is {}",
        },
    ),
    measured=(
        "Readings today: {}.",
        "Checked at the desk: {}.",
        "The nurse wrote down: {}.",
        "Monitor: {}.",
    ),
    assessments=(
        "My impression is {}.",
        "Clinically {}.",
        "All points to {}.",
        "We settled on {}.",
        "I would say {}.",
    ),
    treatments=(
        "We will treat with {}.",
        "I prescribed {}.",
        "{He} will take {}.",
        "Go ahead with {}.",
        "From today on {}.",
    ),
    next_visits=("Arrange a {}.", "Set up a {}.", "We agreed to a {}."),
    warnings=(
        "We must see {him} immediately if {}.",
        "{He} was warned to rush back if {}.",
        "Straight back to hospital if {}.",
        "Back here at once if {}.",
    ),
    asides=(
        "It has been raining all day.",
        "{He} brought us a box of chocolates.",
        "The lift is stuck once more.",
        "{His} neighbour drove {him} here.",
        "I still have to pick up my kids.",
        "{He} told a good joke.",
        "The phone keeps ringing.",
    ),
    requests=(
        "Put this into our usual form.",
        "Please chart this.",
        "Turn it into an entry.",
        "Could you document the visit?",
        "An entry for the file please.",
    ),
    orders=(
        "Sort it as {order}.",
        "Sequence: {order}.",
        "Arrange it like this: {order}.",
        "Begin with {first}, followed by {rest}.",
        "We need {order}.",
    ),
    lists=(", ", ", ", ", then "),
)
