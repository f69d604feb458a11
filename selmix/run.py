"""A run on disk: one folder with what was asked, what came out, and what is needed to repeat it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from selmix.checkpoints import save_tensors, write_atomically
from selmix.errors import UsageError
from selmix.pipeline import Tuning

_RESULT = "result.json"


@contextmanager
def run_folder(out: Path, *, overwrite: bool, result: str = _RESULT) -> Iterator[None]:
    """Make the run folder before anything expensive starts; take it away again if nothing came of it.

    Args:
        out: the folder.
        overwrite: whether a finished run in it may be replaced.
        result: name of the file that a finished run has.

    Raises:
        UsageError: if `out` is a file or cannot be made, holds a run and `overwrite` is off, or holds other files.
    """
    if out.is_dir() and any(out.iterdir()):
        if not (out / result).is_file():
            raise UsageError(f"--out {out} holds files that are no run of selmix; name a new folder")
        if not overwrite:
            raise UsageError(f"--out {out} holds a finished run; name a new folder or add --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written ({error.strerror}); name another folder") from error
    try:
        yield
    finally:
        if not any(out.iterdir()):
            out.rmdir()


def write_run(out: Path, document: dict[str, Any], tuning: Tuning, request: dict[str, Any]) -> None:
    """Write the run: head, split ids, history, request and, last, the result.

    Args:
        out: the prepared folder.
        document: from `selmix.result.describe`.
        tuning: what stage two did.
        request: what was asked, every default filled in; written as `recipe.toml`.
    """
    (out / _RESULT).unlink(missing_ok=True)
    head = tuning.head
    metadata = {
        "class_names": tuning.data.class_names,
        "metric": document["metric"],
        "digests": tuning.data.digests,
        "version": document["versions"]["selmix"],
    }
    save_tensors({"weight": head.weight, "bias": head.bias}, out / "head.safetensors", metadata)
    write_atomically(out / "splits.json", json.dumps(tuning.data.ids) + "\n")
    write_atomically(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in tuning.refined.history))
    write_atomically(out / "recipe.toml", tomli_w.dumps(request))
    write_atomically(out / _RESULT, json.dumps(document, indent=1, allow_nan=False) + "\n")


def is_run_of(out: Path, command: str) -> bool:
    """Return whether `out` holds a finished run of the verb `command`."""
    try:
        return json.loads((out / _RESULT).read_text())["command"] == command
    except (OSError, ValueError, KeyError, TypeError):
        return False
