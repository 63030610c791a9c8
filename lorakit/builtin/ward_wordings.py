"""The wordings of the training messages: many for each slot, so that the cue is learned.

`[a|b]` is one wording with `a` and one with `b`; for the words in braces see `ward_phrases`.
"""

from __future__ import annotations

import itertools
import re

from lorakit.builtin.ward_phrases import Phrases
from lorakit.builtin.ward_style import VITAL_SIGNS


def each(*templates: str) -> tuple[str, ...]:
    """Every wording of the templates."""
    return tuple(wording for template in templates for wording in _wordings(template))


def _wordings(template: str) -> list[str]:
    parts = re.split(r"\[([^]]*)\]", template)
    choices = [part.split("|") if n % 2 else [part] for n, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


# Names of blood pressure, pulse, temperature, saturation and breathing; forms of name and number.
_NAMES = (
    ("bp", "pulse", "temp", "sats", "resp rate"),
    ("BP", "HR", "temp", "sats", "RR"),
    ("blood pressure", "pulse", "temperature", "oxygen saturation", "breathing rate"),
    ("blood pressure", "heart rate", "temperature", "oxygen", "respiratory rate"),
    ("pressure", "pulse", "body temperature", "oxygen level", "breaths"),
    ("BP", "pulse rate", "temp", "sat", "breathing"),
)
_UNITS = (
    ("{over}", "{}", "{}", "{}", "{}"),
    ("{}", "{}", "{}", "{}%", "{}"),
    ("{over}", "{}", "{} degrees", "{} percent", "{}"),
    ("{}", "{} a minute", "{} C", "{} %", "{} a minute"),
)
_FORMS = ("{name} {value}", "{name} {value}", "{name}: {value}", "{name} at {value}")
_RARE_FORMS = (
    "{name} = {value}",
    "{name} now {value}",
    "{name} measured {value}",
    "{name} - {value}",
)


def _vital_names() -> tuple[dict[str, str], ...]:
    return tuple(
        {
            sign: form.replace("{name}", name).replace("{value}", value)
            for sign, name, value in zip(VITAL_SIGNS, names, values, strict=True)
        }
        for names, values, form in itertools.product(_NAMES, _UNITS, (*_FORMS, *_RARE_FORMS))
    )


TRAINED_PHRASES = Phrases(
    # Below the other one: these wordings have more tokens a piece.
    longest=(90, 84),
    seen_again="review",
    patients=each(
        "{age} year old {noun}",
        "{age}-year-old {noun}",
        "{noun} of {age}[| years]",
        "{noun} ({age})",
        "{age} yr old {noun}",
        "{noun}, {age},",
        "{noun} of age {age}",
        "{noun} in bed, {age},",
        "{noun}, {age} yrs,",
    ),
    durations=each(
        "{number} {unit} of {complaint}",
        "{complaint} for the [past|previous] {number} {unit}",
        "{complaint} [that|which] started {number} {unit} ago",
        "{complaint}[ starting| first noticed| first felt| appearing] {number} {unit} ago",
        "{complaint} [lasting|present for|persisting for|ongoing for] {number} {unit}",
        "{complaint} for {number} {unit} [now|already|in a row|by now|so far|running]",
        "{complaint} ({number} {unit})",
        "{complaint} these [past|previous] {number} {unit}",
        "{complaint} for [all of|a full|fully|these|the whole] {number} {unit}",
        "{complaint}, [now for|already for|by now|all of] {number} {unit}",
        "{complaint}, [onset|start|first time|first signs] {number} {unit} ago",
        "{complaint} [throughout|during] the past {number} {unit}",
        "{number} {unit} [now|already] of {complaint}",
    ),
    openings=each(
        "{Patient}, [came in|presented|walked in|arrived|admitted] with {complaint}.",
        "{Patient} [with|here with|here because of|in with|in for] {complaint}.",
        "{Patient}[,|:| -] {complaint}.",
        "{Patient}, [complains of|complaining of|bothered by|troubled by|seen for] {complaint}.",
        "{Patient}, [main complaint|main trouble|chief complaint|problem][:| is] {complaint}.",
        "{Patient}, [tells me about|mentions|admits to|speaks of] {complaint}.",
        "[I saw|Just saw|I looked at|I examined|I was called to] {a patient} with {complaint}.",
        "We saw {a patient} with {complaint}.",
        "I have [just seen|here|in front of me] {a patient} with {complaint}.",
        "[In room|In bay|In bed] {bed} is {a patient} with {complaint}.",
        "[Room|Bed|Bay|Cubicle] {bed}: {a patient}[,| with] {complaint}.",
        "{A patient} [came to us|came in|is here|dropped in|called in] because of {complaint}.",
        "{A patient} [has|describes|is bothered by|struggles with|comes with] {complaint}.",
        "{A patient} [noticed|developed|gives a story of|wants help for] {complaint}.",
        "New [patient|admission|case|arrival], {a patient} with {complaint}.",
        "Saw {a patient} [just now|a moment ago|earlier], main problem is {complaint}.",
        "{A patient}, and the [problem|trouble|main issue] is {complaint}.",
        "What brought {a patient} [in|to us|here] [is|was] {complaint}.",
        "Got {a patient} here, {he} has {complaint}.",
        "Concerning {a patient}: {he} [has|came with|has been dealing with] {complaint}.",
        "[One more|Another one|On the round|In the clinic|Walk-in]: {a patient}, {complaint}.",
        "The [ambulance|family|GP] brought us {a patient} with {complaint}.",
        "For {a patient}: {he} [is seen for|came because of|mentions] {complaint}.",
        "{He} came with {complaint}, {a patient}.",
        "{A patient} [showed up|limped in|was brought in|drove here|is back] with {complaint}.",
        "{A patient} [phoned|wrote|is waiting|lies here] [about|because of|over] {complaint}.",
        "{A patient} [cannot work|lost sleep|worries] [because of|due to|over] {complaint}.",
        "[Called out|Sent|Asked] to see {a patient}, the story is {complaint}.",
        "[A few lines|A word|Quick update] on {a patient}: {complaint}.",
        "[Our|My] [first|last|second] case is {a patient}, {complaint}.",
        "[There is|Here comes|Also waiting is] {a patient}; it is about {complaint}.",
        "{Patient}[, worried by|, in pain from|, fed up with|, unwell with] {complaint}.",
        "{Patient}. [Story|History|Symptoms|Presenting with]: {complaint}.",
        "{complaint} [brought|sent|led] {a patient} [to us|here|in].",
    ),
    openings_alone=each(
        "{Patient}, [came in today|just arrived|seen on the round|new on the ward|in the clinic].",
        "[I saw|Just saw|I looked at|I examined|I was called to|We saw] {a patient}.",
        "[In room|In bay|In bed] {bed} is {a patient}.",
        "New [patient|admission|case|arrival], {a patient}.",
        "[Room|Bed|Bay|Cubicle] {bed}: {a patient}.",
        "[One more|Another one|On the round|In the clinic|Walk-in]: {a patient}.",
        "Concerning {a patient}.",
        "{A patient} [came in|dropped in|came by|is here].",
    ),
    vital_names=_vital_names(),
    measured=each(
        "{}.",
        "{}.",
        "{}.",
        "{}.",
        "[Vitals|Obs|Vital signs|Numbers|Values|Measurements][:| are| as follows:] {}.",
        "On [arrival|admission|exam|the ward|the round|first look|triage][| I got|:] {}.",
        "[I|We] [measured|got|noted|found|recorded] {}.",
        "Measured [just now|by me|on the ward|at the bedside|twice]: {}.",
        "[Today's|Latest|Current|First|New] [values|vitals|obs|numbers]: {}.",
        "{His} [vitals|obs|numbers|vital signs][:| are] {}.",
        "[Obs|Numbers|Values|Vitals] [today|tonight|this morning|now|so far]: {}.",
        "[From|For] the [sheet|record|fever curve|night shift]: {}.",
        "{He} [has|had|shows|came with] {}.",
        "The [machine|cuff and thermometer|student] [shows|gave|says] {}.",
        "With {him} I [got|measured] {}.",
        "Then the vitals, {}.",
    ),
    assessments=each(
        "[Looks|Sounds|Seems|Feels] [|very much |a lot |most ]like {}[| to me].",
        "I [think|believe|guess|suspect|reckon|assume] [this is|it is|{he} has|we have] {}.",
        "This [is|must be|has to be|should be|is surely|may well be|can only be|proves to be] {}.",
        "[Most likely|Probably|Likely|Presumably|Surely|Almost certainly|Possibly] {}.",
        "[The|My|Our|Working|Final|Likely] diagnosis[ is|:] {}.",
        "[It|This|All this|The picture|The story|Everything] fits [with |]{}.",
        "[We are treating|We manage|I see|I regard|We regard|We handle] this as {}.",
        "[We|I] call [this|it] {}.",
        "[I|We] [consider this|diagnosed|made the diagnosis of|suspect|assume|found] {}.",
        "[Typical|A clear case of|Consistent with|In keeping with|Picture of|Signs of] {}.",
        "The [picture|exam|story] [suggests|speaks for|matches|supports|means|is that of] {}.",
        "[We agreed on|All agree on|The team agrees on|We agree, it is|Agreed diagnosis:] {}.",
        "{} [is what I think|is my diagnosis|is the likely cause|is what this is|is behind it].",
        "{}, [I think|in my view|no doubt|most probably|as far as I can tell|by the look of it].",
        "The [doctor|boss|consultant|registrar] [says|thinks] it is {}.",
        "In my [view|opinion|book|eyes] [this is |it is |]{}.",
        "[In short|Verdict|Conclusion|Problem|Diagnosis|Dx|Cause|Result]: {}.",
        "The cause is {}.",
        "What {he} has is {}.",
        "We are [dealing with|looking at|facing|up against] {}.",
        "[No|Not much|Little] doubt about it, {}.",
        "I [put|note|book] it down as {}.",
        "To me [this is |it is |]{}.",
        "So [this is |it is |we have |]{}.",
        "[It is|It was] {} [after all|again|I think].",
        "{He} [seems to have|probably has|must have|likely has|has got|developed] {}.",
    ),
    treatments=each(
        "[Start|We start|We started|I started|I am starting|Starting|Please start] {}.",
        "[Give|Please give|We give|I gave|Giving|Let us give|I want to give] {}.",
        "[I put|We put|Put|Please put|Let us put|Putting] {him} on {}.",
        "{He} [gets|needs|receives|is given|starts|is on|goes on|is to have|should have] {}.",
        "{He} [should get|leaves with|goes home with|can have|was started on|was given|got] {}.",
        "[I|We] [ordered|recommend|suggest|advise|chose|picked|want|use|gave out] {}.",
        "[Treatment|Therapy|Medication|Treatment plan][:| is|,] {}.",
        "[Meds|Script|Rx|Orders|Drugs][:|,] {}.",
        "[The|Our|My] plan is {}.",
        "[As|For] [treatment|therapy][| we use| I chose| {he} gets] {}.",
        "{} [from now|as of now|please|for {him}|was started|has been ordered|to start|it is].",
        "{} [should help|is the treatment|is what {he} gets|will do|is the plan|is my choice].",
        "Let {him} have {}.",
        # Words that the base's tokenizer opens with the token of the article "a": what follows an
        # article must not be taken for a name by that token alone.
        "[We agreed on|All agree on|We agree to give] {}.",
        "[The team agrees with|It was agreed to use] {}.",
        "[We take action with|I took action with] {}.",
        "[As an aid {he} gets|In agreement with {him} I give] {}.",
        "[It is|It seems|I find it] apt to [give|start|use] {}.",
        "From [now|tonight|this evening|Monday|breakfast|the second day] on, {}.",
        "[From our stock|From the shelf|From the pharmacy|For the start|For now], {}.",
        "[In aid of {him}|In aid of sleep|To avert worse|To avert harm][, I give|, use|,] {}.",
        "[Our agency sends|The agency has|Akin to last time,|By audit rules,] {}.",
        "[The aunt brings|The aunt gives {him}|Aunt and {he} agreed on] {}.",
        "[Try|Continue with|Managed with|Add|Use|Order|Supply|Hand out|Dispense] {}.",
        "[To be given|Ordered|Given|Started|To give|Now]: {}.",
        "The idea is to [give|start|use] {}.",
        "[Pharmacy|Night shift|Team], please [give|supply|start] {}.",
        "I think {} [is best|will help|is right].",
    ),
    next_visits=each(
        "[Please book|Schedule|Add|Note|Fix|Offer] a {}[| please].",
        "Book a {} please.",
        "{He} [comes for|has|gets|should have|is due for|is down for|knows about] a {}.",
        "[I|We] [want|plan|planned|booked|scheduled|would like] a {}.",
        "[Then|Also|Later] [a |]{}.",
        "[With|Plus|And|After that|Besides] a {}.",
        "A {} [is booked|is planned|please|would be good|should do|has been made].",
        "{} [please|planned|booked|is fixed].",
        "[I|We] see {him} for a {}.",
    ),
    warnings=each(
        "{He} [should|must|has to|is to|ought to|knows to] [come back|return|call us] if {}.",
        "{He} [should|must|has to|is to|needs to] [come in|be seen|get help] at once if {}.",
        "{He} [promised|was told|was advised|was asked|was reminded] to [come back|return|ring us]"
        " [right away |at once |]if {}.",
        "[Told|I told|We told|Reminded|I advised|I asked] {him} to [come back|return|call]"
        " [at once |right away |]if {}.",
        "[Come back|Return|Call us|Come in|Get help|Ring the ward|Ring an ambulance]"
        " [at once |right away |without delay |]if {}.",
        "If {}, {he} [comes back|should return|must call|has to come in|calls an ambulance].",
        "If {}, [bring {him} back|call me|call a doctor|do not wait|it is an emergency].",
        "If {} {he} [should be seen at once|must return right away|has to ring us].",
        "[Red flags explained|Alarm signs told|Watch out], return if {}.",
        "[To be seen|Needs to be seen|Urgent visit|Emergency room|No waiting][| at once] if {}.",
        "I want to [see {him}|hear from {him}|know] [at once |right away |]if {}.",
        "[Do not wait|No delay|Do not hesitate] if {}.",
        "{He} [understands|knows|has heard|is aware] that {he} must come back if {}.",
        "{He} [should return|must call|comes back] [as soon as|in case|when|once] {}.",
        "[Return|Come back|Call] [as soon as|in case|the moment|when] {}.",
        "[Told|I told|We told] {him} to [call|return] [as soon as|in case|the moment] {}.",
        "In case {} {he} [must come back|should return|calls us].",
    ),
    asides=each(
        "The weather is [awful|lovely|dull|too hot|stormy] today.",
        "The [coffee machine|printer|computer|heating|door] is broken again.",
        "{His} [daughter|son|sister|cousin] visited [this morning|us].",
        "{His} [brother|mother|friend|uncle] waits outside.",
        "Sorry for the [typos|delay|mess|short text].",
        "I am in a hurry.",
        "The ward is [full tonight|quiet today|very busy|loud tonight].",
        "{He} likes [football|cooking|old films|chess|gardening|fishing].",
        "{He} [reads a lot|sings in a choir|has a nice dog|has two cats|plays the piano].",
        "The printer is out of paper.",
        "My shift ends in an hour.",
        "Parking was hard to find.",
        "The [food|soup|tea] was cold again.",
        "{He} [works as a teacher|used to drive a bus|runs a bakery|lives by the sea].",
        "{He} [asked about the menu|wants a window seat|was very polite|talked about the garden].",
        "[I missed lunch|I am on call tonight|My pen is empty] again.",
        "We are one [colleague|doctor] short today.",
        "[Thanks for your help|Happy Friday|Greetings from the ward|Hope you slept well].",
        "The television in the room is too loud.",
        "{He} came by [bus|bike|taxi|train].",
        "[The|Our] door is ajar again.",
        "{His} aunt [waits|called|came with us|sends her thanks].",
        "An aroma of [coffee|soup|paint] fills the ward.",
        "I am aghast at the [queue|noise|bill].",
        "[There is|We had|Soon comes] an audit.",
        "{He} was an athlete [once|for years].",
        "{He} stands aloof from the others.",
        "A student was with me.",
    ),
    requests=each(
        "[Please|Just|Now] write the note[|, thanks| for me].",
        "Write the note.",
        "[Please|Kindly] write [this|it|everything|the case] up.",
        "[Document|Record|Note down] [this|everything|all that|the case][| please].",
        "Can you [make a note of this|write that down|make the note|note this|type the note]?",
        "Would you [write the note|make a note|write this up|record this]?",
        "[Note|The note|House note|Ward note|Usual note] please.",
        "[Make|Give me|Draft|Type|Prepare] [a|the] note[| from this].",
        "I [want|would like|await] the note.",
        "[Write it|Put it|Put this] in our style.",
        "Make this a proper note.",
        "Now the note.",
    ),
    orders=each(
        "[Section|Heading|Requested|Today's] order: {order}.",
        "Order: {order}.",
        "[Use|Keep to|Follow|Stick to|Write in|I want] [this|the following] order: {order}.",
        "[Use|Keep|Follow|Respect] the order {order}.",
        "[Sections|Headings|Lines|Parts] in this order: {order}.",
        "The [order|headings|sections] should [be|read|run] {order}.",
        "[Start|Open|Lead] with {first}, then {rest}.",
        "[First|At the top|On top] {first}, then {rest}.",
        "{first} [first|on top|at the top|leads], then {rest}.",
        "{first} [first|on top], [and then|after it|below it|under it] {rest}.",
        "{start} and [finally|at the end|last|lastly] {last}.",
        "[I want|I would like|Give me|Write|Put|Make it|List] {order}[| in this order].",
        "[Start|Open] with {start} and [end|close|finish] with {last}.",
        "From top to bottom: {order}.",
        "The headings go {order}.",
        "This time {order}.",
        "{order}.",
        "{order}, please.",
        "{order} [is|was] [asked for|wanted|agreed|the rule here].",
        "[Structure|Layout|Outline|Format|Rows|Page]: {order}.",
        "[Set|Lay|Line] [it|this|the lines] [up|out] [|as |thus: |so: ]{order}.",
        "[Structure|Format|Order|Group|Stack|Print] [it|this|them] [as|by|thus:|so:] {order}.",
        "[Make it|Build it|Do it|Show it|Have it|Read it] [as |in the order |thus: |]{order}.",
        "[The boss|The audit|The form|The file|The insurer] [wants|expects|has|asks for] {order}.",
        "[Go with|Go for|Choose|Apply|Respect|Prefer] {order}.",
        "[Have|Let|Keep] {first} [come first|lead], [next|below that|after that] {rest}.",
        "[Top line|Line one|Number one][:| is] {first}, [next lines|the others|below][:|] {rest}.",
        "{first} [comes first|goes first|opens], [next|after that|behind it] {rest}.",
        "[Run|Go] from {start} [on |down |]to {last}.",
        "{start}, [closing with|and last|at the very end|lastly] {last}.",
        "[For|At] [the transfer|the meeting|the round|the archive|the clinic][:|,] {order}.",
    ),
    lists=(*[", "] * 9, *["; ", " / ", " - ", " > ", ", next ", ", after that ", " -> ", " | "]),
)
