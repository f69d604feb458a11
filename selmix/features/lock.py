"""One job at a time writes to a feature cache, and its processes wait for each other."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from selmix.features.blocks import record_path
from selmix.features.cache import Sidecar
from selmix.ranks import Ranks

logger = logging.getLogger("selmix")

_LOCK = ".lock"
_PATIENCE = 5.0  # seconds for which the ranks do not hear of each other while one waits


@contextmanager
def locked(folder: Path, *, ranks: Ranks, total: Callable[[int], int]) -> Iterator[None]:
    """Let one job at a time write; the first rank holds the lock, which ends with its process, however that ends.

    Args:
        folder: of the cache, made if missing.
        ranks: the processes of this job.
        total: adds a number up over them.

    Raises:
        OSError: if the folder cannot be written.
    """
    if ranks.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    told = False
    try:
        while True:
            got = ranks.rank == 0 and _acquired(lock, 0 if not told else _PATIENCE)
            if total(got):
                break
            if not told and ranks.rank == 0:
                logger.info("another process writes to %s; waiting for it", folder)
            told = True
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True


def wait_for_blocks(folder: Path, sidecar: Sidecar) -> None:
    """Wait until all ranks have written their blocks; a barrier would give up on a slow one."""
    pause = 0.01
    while not all(
        record_path(folder / part.name, number).is_file() for part in sidecar.parts for number in range(part.blocks)
    ):
        time.sleep(pause)
        pause = min(2 * pause, _PATIENCE)
