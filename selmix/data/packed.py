"""How large a packed file may become: what inflates beyond reason is refused before memory is taken for it."""

from pathlib import Path

from selmix.errors import DataError

MOST_INFLATED = 2**28  # bytes that every file may inflate to
MOST_RATIO = 100  # times its own size, that a larger file may inflate to


def bomb(size: int, inflated: int) -> str:
    """Return what is wrong with a file that becomes so large; empty if nothing is.

    Args:
        size: bytes of the file.
        inflated: bytes that its content takes in memory, as the file says before it is read.

    >>> bomb(10**6, 10**8), bomb(10**7, 10**9), bomb(10**6, 10**9)
    ('', '', 'must not inflate to more than 256 MiB or 100 times its size, got 1000000000 bytes of 1000000')
    """
    if inflated <= max(MOST_INFLATED, MOST_RATIO * size):
        return ""
    return (
        f"must not inflate to more than {MOST_INFLATED >> 20} MiB or {MOST_RATIO} times its size, got {inflated} bytes "
        f"of {size}"
    )


def refuse_bomb(path: Path, inflated: int, remedy: str) -> None:
    """Refuse a file whose content would take more memory than its size lets expect.

    Args:
        path: of the file.
        inflated: bytes that its content takes in memory.
        remedy: what to do.

    Raises:
        DataError: if these are more than MOST_INFLATED, and more than MOST_RATIO times the size of the file.
    """
    fault = bomb(path.stat().st_size, inflated)
    if fault:
        raise DataError(f"{path} {fault}; {remedy}")
