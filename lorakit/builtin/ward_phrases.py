"""How people word their messages: the slots of a message, and the wordings never trained.

The trained ones are in `ward_wordings`.

`{a patient}` is the patient with article, age and sex; `{complaint}` what brought them, `{he}`,
`{him}`, `{His}` the pronouns, `{number}` and `{unit}` a duration.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """Ways to say each part of a message; names of vital signs are one mapping per style.

    Attributes:
        longest: most pieces of a message and of its note, as `ward_notes` counts them.
        seen_again: the word for the next visit, the same in message and note.
        patients: noun phrases of `{age}` and `{noun}` without article.
        durations: how `{complaint}` says how long.
        openings: a sentence on the patient with the complaint.
        openings_alone: the same where nobody told the complaint.
        vital_names: {vital sign: form of its number `{}`}.
        measured: how the list of vital signs is introduced.
        orders: asking for an order of sections: `{first}`, `{rest}`, or `{start}`, `{last}`, or the
            whole `{order}`.
        lists: what stands between two headings of such an order.
    """

    longest: tuple[int, int]
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


UNSEEN_PHRASES = Phrases(
    longest=(92, 86),
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
