"""Own-written facts about common conditions, for the generated clinical English of the corpus."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Condition:
    """What a patient leaflet says about one condition, in fragments that fit into sentences."""

    name: str
    what: str
    causes: str
    symptoms: tuple[str, ...]
    tests: str
    treatment: str
    advice: str
    urgent: str


def _condition(line: str) -> Condition:
    name, what, causes, symptoms, tests, treatment, advice, urgent = line.split("|")
    return Condition(
        name, what, causes, tuple(symptoms.split(", ")), tests, treatment, advice, urgent
    )


# name | what it is | causes | symptoms | tests | treatment | advice | when to get help at once
_LINES = """
asthma|a long-term disease in which the airways become narrow and inflamed|allergens, colds, cold air and smoke|wheezing, cough at night, shortness of breath, chest tightness|spirometry and a peak flow diary|an inhaled corticosteroid every day and a salbutamol inhaler for relief|keep the inhaler at hand and avoid smoke|the inhaler does not help or speaking becomes difficult
type 2 diabetes|a disease in which the blood sugar is too high because the body no longer responds well to insulin|overweight, lack of exercise and family history|thirst, frequent urination, tiredness, blurred vision|fasting glucose and HbA1c|diet, exercise and metformin 500 mg twice a day with meals|check the feet every day and have the eyes examined once a year|there is confusion, vomiting or a blood sugar above 20 mmol/L
high blood pressure|a blood pressure that stays above 140/90 mmHg|age, salt, overweight, alcohol and family history|headache, dizziness, nosebleeds, ringing in the ears|repeated measurements at rest and at home|less salt, exercise and tablets such as amlodipine 5 mg once a day|measure the pressure at the same time every day|there is chest pain, weakness of one side or sudden loss of vision
pneumonia|an infection of the lungs|bacteria such as pneumococci, or viruses|fever, cough with sputum, chest pain on breathing, shortness of breath|a chest X-ray and blood tests|amoxicillin 1 g three times a day for five days in mild cases|rest and drink plenty of fluids|breathing becomes fast or the lips turn blue
migraine|a recurrent headache that is often felt on one side|changes in sleep, stress, hormones and some foods|throbbing headache, nausea, sensitivity to light, flashing lights|the history and a normal examination|ibuprofen 400 mg or a triptan early in the attack|keep a headache diary and regular sleep|a headache is sudden and the worst of one's life
urinary tract infection|an infection of the bladder|bacteria from the bowel, most often E. coli|burning on passing urine, frequent urination, pain above the pubic bone, cloudy urine|a urine dipstick and culture|nitrofurantoin 100 mg twice a day for five days|drink enough and do not hold back urine|there is fever with pain in the flank
gastroesophageal reflux|a flow of stomach acid back into the gullet|a weak lower sphincter, overweight and late meals|heartburn, sour taste, cough when lying down|the history, and endoscopy if it lasts|omeprazole 20 mg once a day before breakfast|eat small meals and raise the head of the bed|swallowing is painful or the stool is black
iron deficiency anaemia|a lack of red blood cells because the body has too little iron|blood loss, heavy periods and a diet poor in iron|tiredness, pale skin, shortness of breath on effort, brittle nails|haemoglobin and ferritin|iron tablets, one every other day, for three months|take iron with orange juice and not with tea|there is chest pain, fainting or visible bleeding
appendicitis|an inflammation of the appendix|a blockage of the appendix|pain that moves to the lower right abdomen, loss of appetite, nausea, mild fever|examination, blood count and ultrasound|surgery to remove the appendix, or antibiotics in chosen cases|do not eat or drink before being seen|the pain spreads over the whole abdomen
heart failure|a weakness of the heart, which pumps less blood than the body needs|coronary disease, high blood pressure and valve disease|shortness of breath lying flat, swollen ankles, weight gain, tiredness|an echocardiogram and the blood marker BNP|an ACE inhibitor, a beta blocker and a diuretic such as furosemide 40 mg|weigh every morning and limit salt|weight rises by 2 kg in three days or breathing gets worse at rest
stroke|a sudden loss of brain function because blood does not reach a part of the brain|a blood clot, or bleeding from a vessel|drooping of the face, weakness of one arm, slurred speech, loss of vision|a CT scan of the head at once|medicine that dissolves the clot within 4.5 hours, or its removal|note the time when symptoms began|any of these signs appears, even for minutes
hypothyroidism|an underactive thyroid gland|autoimmune inflammation or treatment of the thyroid|tiredness, weight gain, feeling cold, dry skin|TSH and free T4|levothyroxine once a day on an empty stomach|have the TSH checked six weeks after a change of dose|there is drowsiness with a low body temperature
chickenpox|a very contagious infection with the varicella virus|contact with a person who has chickenpox or shingles|itching blisters, fever, tiredness|the look of the rash|paracetamol for fever and lotion for the itch|keep the nails short and stay at home until all blisters are dry|there is trouble breathing or a stiff neck
gout|an inflammation of joints by crystals of uric acid|a high uric acid level, alcohol, meat and some diuretics|sudden pain in the big toe, redness, swelling, warmth|uric acid and examination of joint fluid|colchicine 0.5 mg or naproxen during the attack, allopurinol to prevent more|drink water and rest the joint|there is fever with a hot joint
osteoarthritis|a wearing of the cartilage of a joint|age, overweight, old injuries and heavy work|pain on walking, morning stiffness under 30 minutes, swelling, less movement|an X-ray of the joint|exercise, weight loss and paracetamol or a gel with diclofenac|keep moving and use a stick on the other side|the joint is suddenly hot or cannot bear weight
depression|an illness with low mood and loss of interest for more than two weeks|stress, loss, illness and inherited risk|sadness, poor sleep, loss of appetite, lack of energy|a talk with a doctor and a questionnaire|talking therapy and, if needed, sertraline 50 mg once a day|keep a daily routine and tell a trusted person|there are thoughts of ending one's life
gastroenteritis|an infection of the stomach and bowel|viruses such as norovirus, or spoiled food|vomiting, watery diarrhoea, cramps, mild fever|a stool culture if there is blood|oral rehydration solution in small sips|wash hands often and stay at home for 48 hours after the last symptom|there is blood in the stool or no urine for 12 hours
eczema|a long-term inflammation that makes the skin dry and itchy|a weak skin barrier, allergies and soap|itching, dry patches, redness, cracked skin|the look of the skin|moisturising cream twice a day and a mild steroid cream for flares|use lukewarm water and cotton clothes|the skin weeps, is very painful or there is fever
kidney stones|hard deposits that form in the kidney|too little fluid, salt and a family history|severe pain in the flank, blood in the urine, nausea, restlessness|a CT scan without contrast and a urine test|diclofenac 75 mg for pain; most stones under 5 mm pass by themselves|drink at least 2 litres a day|there is fever or no urine comes
deep vein thrombosis|a blood clot in a deep vein, most often of the leg|surgery, long journeys, cancer and the contraceptive pill|swelling of one leg, pain in the calf, warmth, redness|D-dimer and an ultrasound of the leg|apixaban 10 mg twice a day for seven days, then 5 mg twice a day|walk every day and keep to the tablets|there is sudden shortness of breath or chest pain
epilepsy|a tendency of the brain to have repeated seizures|scars, genes, tumours, and often no known cause|jerking of the limbs, loss of awareness, staring, biting of the tongue|an EEG and an MRI of the brain|levetiracetam 500 mg twice a day|sleep enough and do not drive until allowed|a seizure lasts longer than five minutes
tonsillitis|an inflammation of the tonsils|viruses, or streptococci|sore throat, fever, pain on swallowing, swollen glands|a throat swab in some cases|paracetamol, and penicillin if streptococci are found|drink cool fluids and rest the voice|breathing or opening the mouth is difficult
coronary heart disease|a narrowing of the arteries of the heart|smoking, high cholesterol, diabetes and high blood pressure|chest pain on effort, pain in the left arm, shortness of breath, sweating|an ECG, a stress test and angiography|aspirin 100 mg, atorvastatin 40 mg and a beta blocker|stop smoking and exercise with advice|pain at rest lasts longer than ten minutes
chronic obstructive pulmonary disease|a lasting narrowing of the airways|smoking and dust at work|cough in the morning, sputum, shortness of breath, wheezing|spirometry after a bronchodilator|a long-acting inhaler such as tiotropium 18 micrograms once a day|stop smoking and have a flu vaccination each year|breathlessness or sputum suddenly increases
coeliac disease|a disease in which gluten damages the small bowel|an immune reaction to gluten in wheat, rye and barley|diarrhoea, bloating, weight loss, tiredness|antibodies in the blood and a biopsy|a gluten-free diet for life|read the labels of all foods|there is severe weakness or weight falls quickly
hay fever|an allergy of the nose and eyes|pollen of trees and grasses|sneezing, runny nose, itching eyes, blocked nose|the history and a skin prick test|cetirizine 10 mg once a day or a steroid nasal spray|keep windows shut when pollen is high|there is wheezing or swelling of the tongue
anaphylaxis|a severe allergic reaction of the whole body|nuts, insect stings and medicines|hives, swelling of the lips, wheezing, low blood pressure|the signs alone|adrenaline 0.5 mg into the thigh at once|carry two adrenaline pens|it is suspected at all
shingles|a painful rash along one nerve|the chickenpox virus that wakes up in a nerve|burning pain, blisters on one side, tingling, fever|the look of the rash|aciclovir 800 mg five times a day for seven days|keep the rash dry and covered|it is near the eye
sciatica|a pain from the lower back into the leg|a slipped disc that presses on a nerve|shooting pain in one leg, numbness, tingling, back pain|examination, and an MRI if it lasts|ibuprofen, movement and physiotherapy|stay active and avoid long bed rest|there is loss of control over bladder or bowel
atrial fibrillation|an irregular and often fast heart rhythm|age, high blood pressure, heart disease and alcohol|palpitations, tiredness, dizziness, shortness of breath|an ECG|a beta blocker and an anticoagulant such as apixaban 5 mg twice a day|feel the pulse and do not miss the anticoagulant|there is fainting or signs of a stroke
"""

CONDITIONS = tuple(_condition(line) for line in _LINES.strip().splitlines())
