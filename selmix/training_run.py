"""A stage-one run on disk: one folder with what was asked, how it went, and what came out."""

import json
from pathlib import Path
from typing import Any

import tomli_w

from selmix.checkpoints import write_atomically
from selmix.errors import UsageError
from selmix.faults import read_toml

CHECKPOINT, LOG, RECIPE, MANIFEST = "checkpoint.pt", "metrics.jsonl", "recipe.toml", "manifest.json"
SPLITS_FILE = "splits.json"
LAST, BEST, MODEL = "last.safetensors", "best.safetensors", "model.safetensors"


def begin_run(out: Path, request: dict[str, Any], *, resume: bool) -> None:
    """Make the folder and write the recipe, or find there what is to be resumed.

    Args:
        out: the folder.
        request: the recipe, every default filled in.
        resume: go on where an earlier run of the same recipe stopped; begin if it did not come to a checkpoint.

    Raises:
        UsageError: if `out` holds other files, a finished run, an unfinished one and `resume` is off, or one of another
            recipe.
    """
    request = json.loads(json.dumps(_without_none(request)))
    if (out / MANIFEST).is_file():
        raise UsageError(f"--out {out} holds a trained backbone; name a new folder")
    begun = any(out.glob(f"**/{CHECKPOINT}"))  # a recipe alone is of a training that failed before its first epoch
    if begun and (out / RECIPE).is_file():
        if not resume:
            raise UsageError(f"--out {out} holds an unfinished training; add --resume to go on, or name a new folder")
        earlier = read_toml(out / RECIPE, "recipe")
        if earlier != request:
            changed = sorted(key for key in earlier | request if earlier.get(key) != request.get(key))
            raise UsageError(f"--out {out} holds the training of another recipe: {', '.join(changed)} differ")
        return
    if out.is_dir() and any(path.name != RECIPE for path in out.iterdir()):
        raise UsageError(f"--out {out} holds files that are no training of selmix; name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / RECIPE, tomli_w.dumps(request))
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written ({error.strerror}); name another folder") from error


def _without_none(value: Any) -> Any:
    """TOML has no null: a key without a value is left out."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def log_epoch(out: Path, record: dict[str, Any]) -> None:
    """Add a line to the log; lines of epochs that are trained again after an interruption are replaced."""
    log = out / LOG
    lines = log.read_text().splitlines() if log.is_file() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["epoch"] < record["epoch"]]
    write_atomically(log, "".join(line + "\n" for line in [*kept, json.dumps(record)]))
