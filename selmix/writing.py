"""Files that are there whole or not at all, whatever happens while they are written."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNWRITTEN = ".writing"  # begins the name of a file that is not complete


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a path; what is written there is brought to the disk and then gets its name.

    Nothing is left of it if that fails; what a killed process leaves, `remove_leftovers` removes.

    Raises:
        OSError: if it cannot be written, with the path.
    """
    temporary = path.with_name(f"{UNWRITTEN}-{path.name}-{os.getpid()}")
    try:
        yield temporary
        _synchronise(temporary, os.O_RDWR)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if os.name == "posix":
        _synchronise(path.parent, os.O_RDONLY)  # the name, too


def _synchronise(path: Path, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write a file, whole or piece by piece, so that a reader sees the old content or the new one, never a torn one.

    Raises:
        OSError: if it cannot be written, with the path; nothing of it is left then.
    """
    with new_file(path) as temporary, temporary.open("wb") as file:
        for piece in [content] if isinstance(content, str | bytes) else content:
            file.write(piece.encode() if isinstance(piece, str) else piece)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left unfinished in a folder and in those in it."""
    for path in folder.rglob(f"{UNWRITTEN}-*"):
        path.unlink(missing_ok=True)
