"""Folders of runs: one writer at a time; and what a folder is that should be a finished run, and is none."""

from pathlib import Path

from filelock import FileLock, Timeout

from selmix.errors import UsageError, unwritable

_STAGE_TWO = "stage2"


def claim(out: Path, lock: FileLock) -> None:
    """Make the folder of a run, and take the lock in it.

    Raises:
        UsageError: if another process has it, or the folder cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"another run is writing to --out {out}; wait for it, or name a new folder") from None
    except OSError as error:
        raise unwritable(out, error) from error


def no_run(folder: Path, *, written_by: str, lacks: str) -> UsageError:
    """Return the error for a path that is no run folder: first what it is, then what to name instead.

    Args:
        folder: that was named.
        written_by: the verbs whose folder it should be.
        lacks: what a folder of theirs has, and this one has not.
    """
    remedy = f"name a folder that {written_by} wrote (its --out)"
    if not folder.exists():
        return UsageError(f"{folder} does not exist; {remedy}")
    if not folder.is_dir():
        return UsageError(f"{folder} is a file; {remedy}")
    if (folder / _STAGE_TWO / "result.json").is_file():
        return UsageError(f"{folder} holds both stages of `selmix run`; name {folder / _STAGE_TWO}")
    return UsageError(f"{folder} holds no finished run (no {lacks}); {remedy}")
