"""The one exception that means "the input is wrong", and how a wrong name is answered."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input: one sentence naming the file or key, its value, and what would be valid.

    The command line prints the sentence and exits 2; nothing is left half-written.
    """


def missing_extra(package: str, extra: str, why: str) -> UserError:
    """The error for an optional dependency that is not installed, with the command that adds it."""
    return UserError(f"{why} needs {package}: pip install 'anytrain[{extra}]'")


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' when some known name is close to `name`, else the list of known ones."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"
