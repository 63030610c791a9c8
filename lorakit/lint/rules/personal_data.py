"""Likely personal data in the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits, listed_kinds

ID = "personal-data"
SEVERITIES = ("warning", "note")
TITLE = "Likely personal data in the text"
REASON = (
    "Addresses, numbers of cards, accounts and persons are memorized as secrets are, and are "
    "other people's. Numbers must pass their own checksum (Luhn, IBAN) or stand beside their "
    "name. Contact details of institutions are a note; a warning needs numbers of persons, or "
    "mail addresses with private providers in several rows."
)
SOURCE = "Carlini et al. (arXiv 2012.07805); GDPR, article 4(1)"
EXAMPLE = '{"prompt": "...", "completion": "Write to anna.k.1987@gmail.com ..."}'
MEND = "Remove or replace them before training."

MIN_ROWS = 3
# An account that identifies a person; anything@institution.org is a note.
_PRIVATE = (
    "gmail|googlemail|hotmail|outlook|live|yahoo|icloud|me|aol|gmx|web|proton|protonmail|mail|"
    "yandex|qq|163"
)
_MAIL = regex.compile(r"(?i)\b[a-z0-9._%+-]{2,64}@(?P<host>[a-z0-9.-]+\.[a-z]{2,})\b")
_PRIVATE_HOST = regex.compile(rf"(?i)(?:{_PRIVATE})\.(?:com|net|de|org|me|ru|fr|co\.uk|at|ch)")
_CARD = regex.compile(r"(?<![\d.,-])\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}(?![\d.,-]*\d)")
_IBAN = regex.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")
_SSN = regex.compile(
    r"(?i)\b(?:ssn|social security(?: number)?|soc\.? sec\.?)\b\D{0,20}(?!000|666|"
    r"9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b"
)
_SSN_ALONE = regex.compile(r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-])")
_PHONE = regex.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])"
)
_TEST_CARDS = frozenset(
    {"4111111111111111", "4242424242424242", "5555555555554444", "378282246310005"}
)
PERSONAL = frozenset({"card number", "IBAN", "social security number", "private mail address"})


def find(facts: Facts) -> Iterator[Finding]:
    personal, contact = Hits(facts.train), Hits(facts.train)
    kinds: Counter[str] = Counter()
    for row in facts.train:
        found = _kinds(f"{row.text}\n{row.thinking}")
        kinds.update(found)
        if found & PERSONAL:
            personal.add(row)  # what it is is shown nowhere
        elif found:
            contact.add(row)
    numbers = sum(kinds[kind] for kind in PERSONAL - {"private mail address"})
    many = personal.count >= MIN_ROWS or numbers > 0
    for hits, severity, own in (
        (personal, "warning" if many else "note", True),
        (contact, "note", False),
    ):
        if hits.count:
            told = listed_kinds({kind: n for kind, n in kinds.items() if (kind in PERSONAL) == own})
            yield hits.finding(
                ID,
                severity,  # type: ignore[arg-type]
                f"hold what looks like {'personal data' if own else 'contact details'} ({told})",
                "models can be made to say it; remove or replace what belongs to a person",
            )


def _kinds(text: str) -> set[str]:
    found = set()
    if "@" in text:
        hosts = [match["host"] for match in _MAIL.finditer(text)]
        if any(map(_PRIVATE_HOST.fullmatch, hosts)):
            found.add("private mail address")
        elif hosts:
            found.add("mail address")
    if any(_is_card(match[0]) for match in _CARD.finditer(text)):
        found.add("card number")
    if any(_is_iban(match[0]) for match in _IBAN.finditer(text)):
        found.add("IBAN")
    if _SSN.search(text):
        found.add("social security number")
    elif _SSN_ALONE.search(text):
        found.add("number like a social security number")
    if _PHONE.search(text):
        found.add("phone number")
    return found


def _is_card(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    known = 13 <= len(digits) <= 19 and digits[0] in (3, 4, 5, 6) and len(set(digits)) > 3
    if not known or "".join(map(str, digits)) in _TEST_CARDS:
        return False
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    turned = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return int(turned) % 97 == 1
