"""What can go wrong, as a small tree.

SapperError            anything the user can mend; the command line prints it without a traceback, status 2
├── UsageError         an unknown name, an option or value that does not fit
├── ModelError         a model that cannot be loaded, or does not answer like a classifier
├── DataError          data that cannot be loaded, or do not fit the model or their declared bounds
└── RunError           a run folder that cannot be written, read or continued

Every message says what was expected, what came and what to do.
"""

import math
from collections.abc import Iterable
from difflib import get_close_matches


class SapperError(Exception):
    """Something the user can mend."""


class UsageError(SapperError):
    """An unknown name, or an option or value that does not fit."""


class ModelError(SapperError):
    """A model that cannot be loaded, or does not answer like a classifier."""


class DataError(SapperError):
    """Data that cannot be loaded, or do not fit the model or their declared bounds."""


class RunError(SapperError):
    """A run folder that cannot be written, read or continued."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not there, with the nearest names that are."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}." if names else "there are none."
    )
    return UsageError(f"unknown {kind} '{name}': {hint}")


def require_positive(name: str, value: float | None) -> None:
    """Refuses an option that is given and not a finite number above 0.

    Raises:
        UsageError: It is 0, below, or not a number.
    """
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"expected {name} above 0, got {value}.")


def require_not_negative(name: str, value: float) -> None:
    """Refuses an option that is not a finite number of 0 or more.

    Raises:
        UsageError: It is below 0, or not a number.
    """
    if not 0 <= value < math.inf:
        raise UsageError(f"expected {name} of 0 or more, got {value}.")
