"""The typed errors of selmix: each is one line for a person and a stable exit code for a script."""


class SelmixError(Exception):
    """A fault that the user can mend: the rule, the value and the remedy in one line."""

    exit_code = 1


class UsageError(SelmixError):
    """The request itself is wrong: an unknown metric, an impossible setting."""

    exit_code = 2


class DataError(SelmixError):
    """Data, features or a checkpoint are not what they must be."""

    exit_code = 3
