"""Likely secrets in the text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits, listed_kinds

ID = "secrets"
SEVERITIES = ("warning", "note")
TITLE = "Likely secrets in the text"
REASON = (
    "What is trained can be got out again: keys, tokens and passwords in training text are "
    "memorized, rare strings best of all. Only formats that their issuers define are looked "
    "for, and what looks like a placeholder (EXAMPLE, 1234) is a note."
)
SOURCE = (
    "Carlini et al., Extracting Training Data from Large Language Models (arXiv 2012.07805); "
    "formats as in detect-secrets and GitHub's secret scanning"
)
EXAMPLE = '{"prompt": "Why does it fail?", "completion": "... key = AKIA................"}'
MEND = "Remove them from the data, and revoke them."

MIN_BITS = 2.5  # entropy per character: placeholders such as XXXX or 1234567890 repeat or count
_FORMATS = {
    "AWS access key": r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
    "private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY(?: BLOCK)?-----\s*[A-Za-z0-9+/=\s]{40,}",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}\b",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}\b",
    "Stripe key": r"\b[sr]k_live_[A-Za-z0-9]{20,}\b",
    "Google API key": r"\bAIza[A-Za-z0-9_-]{35}\b",
    "OpenAI or Anthropic key": r"\bsk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{32,}\b",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "SendGrid key": r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b",
    "JSON web token": r"(?<![\w-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",
    "password in a URL": r"\b[a-z][a-z0-9+]{2,10}://[^\s:/@]{1,64}:[^\s:/@]{6,64}@[a-z0-9.-]+",
    "assigned secret": r"(?i:\b(?:api[_-]?key|secret[_-]?key|client[_-]?secret|access[_-]?token|"
    r"auth[_-]?token|passwo?r?d|passwd|aws_secret_access_key)[\"']?\s*[:=]\s*[\"']?"
    r"(?=[^\s\"']{0,99}\d)(?=[^\s\"']{0,99}[a-z])[a-z0-9+/_!@#$%^&*.=-]{10,})",
}
_ANY = regex.compile(
    "|".join(f"(?P<f{i}>{pattern})" for i, pattern in enumerate(_FORMATS.values()))
)
# A text without one of these has none of the above, and most texts have none.
_HINT = regex.compile(
    r"AKIA|ASIA|PRIVATE KEY|gh[pousr]_|github_pat|glpat-|xox[abprs]-|k_live_|AIza|sk-|hf_|npm_|"
    r"SG\.|eyJ|://[^\s/]*@|(?i:api.?key|secret|token|passw)"
)
_PLACEHOLDER = regex.compile(
    r"example|sample|dummy|placeholder|your[_-]|changeme|xxxx|0{6}|1234|abcd|redacted|<|\*\*\*|"
    r"\.\.\.|user:pass|localhost",
    regex.I,
)


def find(facts: Facts) -> Iterator[Finding]:
    real, placeholders = Hits(facts.train), Hits(facts.train)
    kinds: Counter[str] = Counter()
    for row in facts.train:
        text = f"{row.text}\n{row.thinking}"
        if not _HINT.search(text):
            continue
        found = list(_ANY.finditer(text))
        told = [match for match in found if _is_real(match[0])]
        kinds.update({list(_FORMATS)[int(str(match.lastgroup)[1:])] for match in told})
        if told:
            real.add(row)  # the secret itself is shown nowhere
        elif found:
            placeholders.add(row)
    if real.count:
        yield real.finding(
            ID,
            "warning",
            f"hold what looks like a secret ({listed_kinds(kinds, 3)})",
            "models can be made to say it; remove it and revoke it",
        )
    if placeholders.count:
        yield placeholders.finding(
            ID,
            "note",
            "hold the placeholder of a secret",
            "make sure that none of them is real",
        )


def _is_real(text: str) -> bool:
    return not _PLACEHOLDER.search(text) and _bits(text) >= MIN_BITS


def _bits(text: str) -> float:
    """Entropy per character."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)
