"""The typed errors of selmix: each is one line for a person and a stable exit code for a script."""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what the system says where there is no room


class SelmixError(ValueError):
    """A fault that the user can mend: the rule, the value and the remedy in one line.

    A ValueError, as scikit-learn expects of an estimator.

    Attributes:
        exit_code: of the command.
        agreed: whether all processes of a job have raised it, so that one can tell it for all.
    """

    exit_code = 1
    agreed = False


class UsageError(SelmixError):
    """The request itself is wrong: an unknown metric, an impossible setting."""

    exit_code = 2


class DataError(SelmixError):
    """Data, features or a checkpoint are not what they must be."""

    exit_code = 3


class ConstraintError(SelmixError):
    """The run is complete, but its head does not keep what it was subject to."""

    exit_code = 4


class DivergedError(SelmixError):
    """A training or a tuning came to numbers that are not finite."""

    exit_code = 5


def check_settings(settings: object, rules: dict[str, tuple[str, bool]]) -> None:
    """Refuse a settings object that breaks a rule, naming every broken one.

    Args:
        settings: the object.
        rules: attribute name -> (the rule in words, whether it holds).

    Raises:
        UsageError: with all faults in one line.
    """
    faults = [
        f"{name} must be {rule}, got {list(value) if isinstance(value, tuple) else value}"
        for name, (rule, holds) in rules.items()
        for value in [getattr(settings, name)]
        if not holds
    ]
    if faults:
        raise UsageError("; ".join(faults))


def suggestion(wrong: str, known: Iterable[str], *, listed: bool = True) -> str:
    """Return the nearest of the known names, if one is near, and the list of them all unless it is too long to show.

    >>> suggestion("shrit", ["shirt", "coat"])
    'did you mean shirt? there are: shirt, coat'
    """
    names = list(known)
    near = difflib.get_close_matches(wrong, names, n=1) or difflib.get_close_matches(wrong.lower(), names, n=1)
    parts = [f"did you mean {name}?" for name in near] + [f"there are: {', '.join(names)}"] * (listed and bool(names))
    return " ".join(parts) or "there is none of a similar name"


def unwritable(out: Path, error: OSError) -> UsageError:
    """Return the error that says why the folder of a run cannot be written."""
    reason = "a file of that name is in the way" if isinstance(error, FileExistsError) else error.strerror
    return UsageError(f"--out {out} cannot be written ({reason}); name another --out")
