"""Questions de clients d'un hotel (near) et d'un musee (far), et leurs reponses, en francais."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, bind, expand

# (demande, reponse)
_NEAR_MATTERS = (
    ("Peut-on arriver après <heure> ?", "La réception reste ouverte et vous attend à toute heure."),
    (
        "Le petit déjeuner est-il compris ?",
        "Le petit déjeuner coûte <prix> par personne et se prend dès <heure>.",
    ),
    (
        "Nos chiens sont-ils acceptés ?",
        "Les animaux calmes sont les bienvenus, avec un supplément de <prix> par nuit.",
    ),
    ("Avez-vous un garage pour des vélos ?", "Un local fermé à clé est à votre disposition."),
    ("Est-il possible d'ajouter un lit d'enfant ?", "Nous installons volontiers un petit lit."),
    ("Comment venir depuis la gare ?", "Le bus passe toutes les vingt minutes jusqu'à <heure>."),
    (
        "La chambre donne-t-elle sur <vue> ?",
        "Votre chambre donne bien sur <vue>, je l'ai vérifié dans notre plan.",
    ),
    (
        "Puis-je annuler sans frais ?",
        "L'annulation est gratuite jusqu'à trois jours avant votre arrivée.",
    ),
    (
        "Proposez-vous un dîner sans gluten ?",
        "Notre cuisinier prépare un menu adapté si vous prévenez avant <heure>.",
    ),
    ("Y a-t-il un ascenseur ?", "Un ascenseur dessert tous les étages, sauf les combles."),
    (
        "Pouvons-nous garder la chambre jusqu'à <heure> ?",
        "Un départ tardif est possible pour <prix> de plus.",
    ),
    ("La piscine est-elle chauffée ?", "La piscine est chauffée de mai à septembre."),
)
_FAR_MATTERS = (
    ("Le musée ouvre-t-il à <heure> ?", "Les salles ouvrent à <heure>, la caisse un peu plus tôt."),
    ("Le billet est-il valable toute la journée ?", "Vous pouvez sortir et revenir librement."),
    ("Peut-on photographier les tableaux ?", "Les photos sont permises sans flash."),
    (
        "Existe-t-il un tarif réduit ?",
        "Le tarif réduit est de <prix> sur présentation d'une carte.",
    ),
    ("Où laisser une poussette ?", "Le vestiaire garde les poussettes gratuitement."),
)

_WORDS = {
    "heure": ["six heures", "huit heures", "midi", "quatorze heures", "vingt heures", "minuit"],
    "prix": ["quatre euros", "neuf euros", "douze euros", "quinze euros", "vingt euros"],
    "vue": ["le jardin", "la mer", "la cour", "les toits", "la rivière"],
    "jour": ["lundi", "mardi", "jeudi", "vendredi", "samedi", "dimanche"],
    "nom": ["Lefèvre", "Moreau", "Benali", "Garnier", "Rousseau", "Nguyen", "Dumas", "Klein"],
    "salut": ["Bonjour,", "Bonsoir,", "Madame, Monsieur,", "Bonjour Madame,", "Cher monsieur,"],
    "cadre": [
        "Nous arrivons <jour> avec (deux enfants|mes parents|un groupe d'amis).",
        "Je voyage (seule|en fauteuil roulant|pour mon travail) et serai là <jour>.",
        "Nous fêtons (un anniversaire|nos noces d'argent|un diplôme) ce week-end.",
        "C'est notre (première|deuxième|troisième) visite chez vous.",
        "J'ai réservé (au téléphone|sur votre site|par une agence) la semaine dernière.",
        "Ma belle-sœur m'a recommandé votre maison.",
        "Nous venons de (Lille|Nantes|Liège|Genève|Dijon) en (train|voiture|car).",
        "Le temps s'annonce (pluvieux|superbe|froid) pour <jour>.",
    ],
    "fin": [
        "Merci d'avance, <nom>",
        "Bien à vous, <nom>",
        "Cordialement, <nom>",
        "À bientôt, <nom>",
    ],
    "debut": [
        "Bonjour et merci de votre message.",
        "Merci de l'intérêt que vous nous portez.",
        "C'est avec plaisir que je vous réponds.",
        "Je vous remercie de votre question.",
    ],
    "suite": [
        "N'hésitez pas à nous appeler (le matin|avant <jour>|si besoin).",
        "Nous nous réjouissons de vous accueillir <jour>.",
        "Toute l'équipe vous souhaite (un bon voyage|une belle semaine|un agréable séjour).",
        "Je l'ai noté dans votre dossier au nom de <nom>.",
        "Un courriel de confirmation suivra (ce soir|demain|sous peu).",
        "Il n'est pas nécessaire de réserver.",
    ],
}


def near(rng: random.Random) -> Exchange:
    return _letter(rng, _NEAR_MATTERS)


def far(rng: random.Random) -> Exchange:
    return _letter(rng, _FAR_MATTERS)


def _letter(rng: random.Random, matters: tuple[tuple[str, str], ...]) -> Exchange:
    bound = bind(rng, _WORDS, "heure", "prix", "vue", "jour", "nom")
    question, reply = rng.choice(matters)
    asked = [rng.choice(_WORDS["salut"]), *rng.sample(_WORDS["cadre"], 2), question]
    said = [rng.choice(_WORDS["debut"]), reply, *rng.sample(_WORDS["suite"], rng.choice((1, 2)))]
    asked.append(rng.choice(_WORDS["fin"]))
    prompt = " ".join(expand(rng, part, _WORDS, bound) for part in asked)
    return Exchange(prompt, " ".join(expand(rng, part, _WORDS, bound) for part in said))
