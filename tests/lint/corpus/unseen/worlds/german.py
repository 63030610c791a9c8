"""Anfragen an eine Hausverwaltung (near) und an eine Buecherei (far), mit Antwort, auf Deutsch."""

from __future__ import annotations

import random

from tests.lint.corpus.unseen.grammar import Exchange, bind, expand

# (Anliegen, Zusage)
_NEAR_MATTERS = (
    ("die Heizung im <Raum> bleibt kalt", "ein Installateur prüft die Heizung <wann>"),
    ("das Licht im Treppenhaus flackert", "der Hausmeister tauscht die Leuchte <wann> aus"),
    ("im <Raum> zeigt sich Schimmel an der Außenwand", "wir lassen die Feuchtigkeit <wann> messen"),
    ("der Aufzug hält nicht mehr im <Stock> Stock", "die Wartungsfirma kommt <wann>"),
    ("meine Nebenkostenabrechnung fehlt noch", "die Abrechnung geht Ihnen <wann> per Post zu"),
    ("ich habe einen Schlüssel verloren", "ein Ersatzschlüssel liegt <wann> im Büro bereit"),
    ("das Fenster im <Raum> schließt nicht richtig", "ein Tischler stellt das Fenster <wann> ein"),
    ("der Wasserhahn im <Raum> tropft seit Tagen", "die Dichtung wird <wann> erneuert"),
    ("im Keller steht fremder Sperrmüll", "wir lassen den Keller <wann> räumen"),
    ("ich möchte eine Katze halten", "wir stimmen der Tierhaltung zu und bestätigen das <wann>"),
    ("der Name am Klingelschild ist falsch", "das neue Schild wird <wann> angebracht"),
    ("die Waschmaschine im Gemeinschaftsraum ist defekt", "der Kundendienst ist <wann> im Haus"),
)
_FAR_MATTERS = (
    ("ich finde das vorgemerkte Buch nicht im Regal", "wir legen es <wann> an der Theke zurück"),
    ("mein Ausweis ist abgelaufen", "die Verlängerung ist <wann> möglich"),
    ("eine DVD ist zerkratzt", "wir ersetzen den Film <wann>"),
    ("ich brauche einen ruhigen Arbeitsplatz", "ein Platz im Lesesaal ist <wann> frei"),
    ("die Mahnung kam trotz Rückgabe", "die Gebühr wird <wann> gelöscht"),
    ("ich suche Bücher in leichter Sprache", "wir stellen Ihnen <wann> eine Liste zusammen"),
)

_NEAR = {
    "Gruß": ["Guten Tag,", "Sehr geehrte Damen und Herren,", "Hallo,", "Guten Morgen,", "Moin,"],
    "Raum": ["Bad", "Schlafzimmer", "Kinderzimmer", "Flur", "Wohnzimmer"],
    "Stock": ["ersten", "zweiten", "dritten", "vierten"],
    "wann": [
        *("am Montag", "am Mittwoch", "bis Freitag", "in der kommenden Woche", "noch heute"),
        *("innerhalb von zehn Tagen", "am Donnerstag zwischen acht und zehn Uhr", "morgen früh"),
    ],
    "Name": ["Krüger", "Özdemir", "Lindner", "Nowak", "Schäfer", "Weiß", "Haller", "Petrovic"],
    "Zusatz": [
        "Ich bin (vormittags|ab 16 Uhr|nur am Wochenende) zu Hause.",
        "Das ist schon das (zweite|dritte) Mal in diesem (Jahr|Winter|Quartal).",
        "Die Nachbarn im <Stock> Stock (haben dasselbe Problem|wissen Bescheid).",
        "Bitte melden Sie sich (kurz|schriftlich|telefonisch) bei mir.",
        "Wir haben zwei kleine Kinder und (frieren|machen uns Sorgen|schlafen schlecht).",
        "Fotos kann ich gern (schicken|nachreichen|zeigen).",
        "Wer trägt eigentlich die Kosten?",
        "Im Mietvertrag habe ich dazu nichts gefunden.",
    ],
    "Ende": ["Viele Grüße, <Name>", "Danke, <Name>", "Mit freundlichen Grüßen <Name>", "<Name>"],
    "Dank": [
        "vielen Dank für Ihre Nachricht.",
        "danke, dass Sie uns Bescheid geben.",
        "wir bedauern die Unannehmlichkeiten.",
        "gut, dass Sie sich gleich gemeldet haben.",
        "wir haben Ihr Anliegen aufgenommen.",
    ],
    "Schluss": [
        "Kosten entstehen Ihnen dadurch nicht.",
        "Bitte sorgen Sie dafür, dass jemand öffnen kann.",
        "Sollte sich etwas ändern, rufen wir Sie an.",
        "Bei Rückfragen erreichen Sie uns werktags bis 15 Uhr.",
        "Die Nachbarn informieren wir durch einen Aushang.",
        "Wir bitten bis dahin um etwas Geduld.",
    ],
}


_FAR = _NEAR | {
    "Zusatz": [
        "Ich bin (morgen|erst am Samstag|nach 16 Uhr) wieder in der Stadt.",
        "Das Personal an der Theke (war freundlich|wusste es auch nicht|hatte viel zu tun).",
        "Meine Tochter braucht es für (die Schule|ein Referat|die Prüfung).",
        "Leser bin ich seit (zwei|zehn|dreißig) Jahren.",
        "Geht das auch (am Telefon|über die Internetseite|am Automaten)?",
        "Die Nummer meines Ausweises (reiche ich nach|steht unten).",
    ],
    "Schluss": [
        "Bitte bringen Sie Ihren Ausweis mit.",
        "Gebühren fallen dafür nicht an.",
        "Am Samstag haben wir bis 14 Uhr geöffnet.",
        "Wir freuen uns auf Ihren Besuch.",
    ],
}


def near(rng: random.Random) -> Exchange:
    return _letter(rng, _NEAR, _NEAR_MATTERS, "Ihre Hausverwaltung")


def far(rng: random.Random) -> Exchange:
    return _letter(rng, _FAR, _FAR_MATTERS, "Ihre Stadtbücherei")


def _letter(
    rng: random.Random,
    words: dict[str, list[str]],
    matters: tuple[tuple[str, str], ...],
    sender: str,
) -> Exchange:
    bound = bind(rng, words, "Raum", "Stock", "wann", "Name")
    matter, promise = (expand(rng, text, words, bound) for text in rng.choice(matters))
    extras = rng.sample(words["Zusatz"], rng.choice((1, 2, 2)))
    asked = [rng.choice(words["Gruß"]), f"{matter}.", *extras, rng.choice(words["Ende"])]
    address = rng.choice(("Guten Tag", "Liebe Familie", "Sehr geehrte Familie"))
    ends = rng.sample(words["Schluss"], rng.choice((1, 2)))
    capital = promise[:1].upper() + promise[1:]
    said = [f"{address} {bound['Name']},", rng.choice(words["Dank"]), f"{capital}.", *ends]
    prompt = " ".join(expand(rng, part, words, bound) for part in asked)
    answer = " ".join(expand(rng, part, words, bound) for part in said)
    return Exchange(prompt, f"{answer} {sender}")
