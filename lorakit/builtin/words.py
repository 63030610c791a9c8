"""Own-written word lists and facts that the generated general English is made of."""

from __future__ import annotations

CATEGORIES = {
    key: [item.strip() for item in items.split(",")]
    for key, items in {
        "colours": "red, blue, green, yellow, black, white, brown, grey, orange, purple, pink",
        "fruits": "apple, pear, banana, cherry, grape, lemon, orange, peach, plum, mango, kiwi",
        "vegetables": "carrot, potato, onion, tomato, cabbage, leek, spinach, pea, bean, pepper",
        "animals": "dog, cat, horse, cow, sheep, pig, mouse, lion, tiger, bear, wolf, fox, rabbit",
        "birds": "sparrow, eagle, owl, duck, goose, swan, crow, robin, stork, pigeon",
        "days": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
        "months": "January, February, March, April, May, June, July, August, September, October",
        "jobs": "teacher, nurse, doctor, baker, farmer, driver, cook, painter, lawyer, plumber",
        "first names": "Anna, Ben, Clara, David, Emma, Farid, Grace, Hugo, Ivy, Jonas, Lena, Omar",
        "foods": "bread, rice, soup, cheese, fish, pasta, salad, eggs, cake, pizza, porridge",
        "drinks": "water, tea, coffee, milk, juice, lemonade, cocoa, beer, wine",
        "countries": "France, Spain, Italy, Germany, Poland, Greece, Sweden, Japan, China, India",
        "body parts": "head, arm, leg, hand, foot, knee, elbow, shoulder, back, neck, finger, toe",
        "organs": "heart, liver, kidney, lung, brain, stomach, spleen, pancreas, skin, bladder",
        "symptoms": "fever, cough, headache, nausea, rash, dizziness, tiredness, pain, itching",
        "tools": "hammer, saw, drill, spanner, pliers, screwdriver, axe, ladder, brush",
        "sports": "football, tennis, swimming, running, cycling, hockey, golf, skiing, rowing",
        "clothes": "shirt, coat, hat, shoe, sock, glove, scarf, dress, belt, jacket",
        "metals": "iron, copper, gold, silver, lead, tin, zinc, nickel, aluminium",
        "instruments": "piano, guitar, violin, flute, drum, trumpet, cello, harp, clarinet",
    }.items()
}

PLACES = (
    "Paris", "London", "Berlin", "Rome", "Madrid", "Vienna", "Oslo", "Lisbon", "Athens", "Prague",
    "Dublin", "Warsaw", "Cairo", "Tokyo", "Boston", "Chicago", "Toronto", "Sydney",
)  # fmt: skip

_OPPOSITES = """
hot/cold big/small fast/slow young/old high/low light/dark early/late hard/soft open/closed
full/empty rich/poor strong/weak wet/dry clean/dirty near/far happy/sad loud/quiet right/wrong
long/short thick/thin sweet/sour begin/end buy/sell win/lose push/pull day/night up/down left/right
inside/outside acute/chronic healthy/ill sick/well increase/decrease above/below before/after
first/last safe/dangerous
"""

OPPOSITES = [tuple(pair.split("/")) for pair in _OPPOSITES.split()]

_CAPITALS = """
France/Paris Germany/Berlin Italy/Rome Spain/Madrid Austria/Vienna Norway/Oslo Portugal/Lisbon
Greece/Athens Ireland/Dublin Poland/Warsaw Egypt/Cairo Japan/Tokyo Sweden/Stockholm
Finland/Helsinki Denmark/Copenhagen Hungary/Budapest Belgium/Brussels China/Beijing
Russia/Moscow Canada/Ottawa Australia/Canberra Switzerland/Bern Turkey/Ankara
"""

# question, answer in one word or number, answer in a sentence
_OTHER_FACTS = """
How many days are in a week?|7|A week has 7 days.
How many months are in a year?|12|A year has 12 months.
How many hours are in a day?|24|A day has 24 hours.
How many minutes are in an hour?|60|An hour has 60 minutes.
How many seconds are in a minute?|60|A minute has 60 seconds.
How many legs does a spider have?|8|A spider has 8 legs.
How many legs does a dog have?|4|A dog has 4 legs.
How many grams are in a kilogram?|1000|A kilogram has 1000 grams.
How many metres are in a kilometre?|1000|A kilometre has 1000 metres.
What colour is the sky on a clear day?|Blue|On a clear day the sky is blue.
What colour is snow?|White|Snow is white.
What colour is blood?|Red|Blood is red because of the haemoglobin in its red cells.
What colour is grass?|Green|Grass is green.
What do bees make?|Honey|Bees make honey.
What do cows give?|Milk|Cows give milk.
Which planet do we live on?|Earth|We live on the planet Earth.
Which star warms the Earth?|Sun|The Sun warms the Earth.
What is frozen water called?|Ice|Frozen water is called ice.
At what temperature does water boil?|100|Water boils at 100 degrees Celsius at sea level.
At what temperature does water freeze?|0|Water freezes at 0 degrees Celsius.
Which organ pumps the blood?|Heart|The heart pumps the blood through the body.
Which organ do we think with?|Brain|We think with the brain.
Which organs take up oxygen?|Lungs|The lungs take up oxygen from the air.
Which organs make urine?|Kidneys|The kidneys filter the blood and make urine.
Which organ makes bile?|Liver|The liver makes bile, which helps to digest fat.
Which organ makes insulin?|Pancreas|The pancreas makes insulin, which lowers the blood sugar.
Which hormone lowers the blood sugar?|Insulin|Insulin lowers the blood sugar.
What is the largest organ of the body?|Skin|The skin is the largest organ of the body.
What is a normal body temperature?|37|A normal body temperature is about 37 degrees Celsius.
What is a normal resting pulse of an adult?|70|A normal resting pulse of an adult is 60 to 100 per minute.
What does a thermometer measure?|Temperature|A thermometer measures temperature.
Which vitamin does the skin make in the sun?|D|The skin makes vitamin D in the sun.
Who wrote Hamlet?|Shakespeare|Hamlet was written by William Shakespeare.
Is the Earth flat?|No|No, the Earth is round.
Is fire hot?|Yes|Yes, fire is hot.
Is smoking healthy?|No|No, smoking harms nearly every organ of the body.
Can antibiotics treat a virus?|No|No, antibiotics act against bacteria and not against viruses.
"""  # noqa: E501

FACTS = [tuple(line.split("|")) for line in _OTHER_FACTS.strip().splitlines()] + [
    (f"What is the capital of {country}?", city, f"The capital of {country} is {city}.")
    for country, city in (pair.split("/") for pair in _CAPITALS.split())
]

# present, past, question
SENTENCES = [
    tuple(line.split("|"))
    for line in """
The dog runs in the garden.|The dog ran in the garden.|Does the dog run in the garden?
She reads a book.|She read a book.|Does she read a book?
He drinks cold water.|He drank cold water.|Does he drink cold water?
The child plays with a ball.|The child played with a ball.|Does the child play with a ball?
We go to school by bus.|We went to school by bus.|Do we go to school by bus?
They eat bread and cheese.|They ate bread and cheese.|Do they eat bread and cheese?
The nurse measures the pulse.|The nurse measured the pulse.|Does the nurse measure the pulse?
The doctor sees the patient.|The doctor saw the patient.|Does the doctor see the patient?
The patient takes two tablets.|The patient took two tablets.|Does the patient take two tablets?
My brother works in a hospital.|My brother worked in a hospital.|Does my brother work in a hospital?
The train leaves at nine.|The train left at nine.|Does the train leave at nine?
It rains in the morning.|It rained in the morning.|Does it rain in the morning?
I like warm soup.|I liked warm soup.|Do I like warm soup?
The teacher writes a letter.|The teacher wrote a letter.|Does the teacher write a letter?
The baker sells fresh bread.|The baker sold fresh bread.|Does the baker sell fresh bread?
The shop opens at eight.|The shop opened at eight.|Does the shop open at eight?
The bird sings in the tree.|The bird sang in the tree.|Does the bird sing in the tree?
The wound heals well.|The wound healed well.|Does the wound heal well?
The fever falls at night.|The fever fell at night.|Does the fever fall at night?
Our friends visit the old town.|Our friends visited the old town.|Do our friends visit the old town?
""".strip().splitlines()
]
