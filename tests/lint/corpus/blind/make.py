"""All cases: `cases()`."""

from tests.lint.corpus.blind.case import Case
from tests.lint.corpus.blind.flawed import accidents, settings
from tests.lint.corpus.blind.sound import plain, special


def cases() -> list[Case]:
    """Those with a flaw first; a case that needs an absent file is left out."""
    return [*settings(), *accidents(), *plain(), *special()]
