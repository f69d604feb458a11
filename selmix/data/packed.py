"""How large a packed file may become: what inflates beyond reason is refused before memory is taken for it."""

from pathlib import Path

from selmix.errors import DataError

MOST_INFLATED = 2**28  # bytes that every file may inflate to
MOST_RATIO = 100  # times its own size, that a larger file may inflate to


def refuse_bomb(path: Path, inflated: int, remedy: str) -> None:
    """Refuse a file whose content would take more memory than its size lets expect.

    Args:
        path: of the file.
        inflated: bytes that its content takes in memory, as the file says before it is read.
        remedy: what to do.

    Raises:
        DataError: if these are more than MOST_INFLATED, and more than MOST_RATIO times the size of the file.
    """
    size = path.stat().st_size
    if inflated > max(MOST_INFLATED, MOST_RATIO * size):
        raise DataError(
            f"{path} must not inflate to more than {MOST_INFLATED >> 20} MiB or {MOST_RATIO} times its size, "
            f"got {inflated} bytes of {size}; {remedy}"
        )
