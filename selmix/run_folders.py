"""What a folder is that should be a finished run, and is none."""

from pathlib import Path

from selmix.errors import UsageError

_STAGE_TWO = "stage2"


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
