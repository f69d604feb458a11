"""A stage-one run on disk: one folder with what was asked, how it went, and what came out."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock

from selmix.errors import DataError, DivergedError, UsageError
from selmix.faults import read_toml
from selmix.run_folders import claim
from selmix.stage1.state import TrainingState
from selmix.writing import UNWRITTEN, remove_leftovers, write_atomically

CHECKPOINT, LOG, RECIPE, MANIFEST = "checkpoint.pt", "metrics.jsonl", "recipe.toml", "manifest.json"
SPLITS_FILE = "splits.json"
SEARCH, LOSS, TENSORBOARD = "search", "loss.json", "tensorboard"
GENERATIONS, PSEUDO_LABELS = "generations", "pseudo_labels.safetensors"
_LOCK = ".lock"
LAST, BEST, MODEL = "last.safetensors", "best.safetensors", "model.safetensors"


@contextmanager
def training_folder(out: Path, request: dict[str, Any], *, resume: bool) -> Iterator[None]:
    """Make the folder and write the recipe, or find there what is to be resumed; no other training may write to it.

    What was begun here and fails before its first checkpoint leaves nothing.

    Args:
        out: the folder.
        request: the recipe, every default filled in.
        resume: go on where an earlier run of the same recipe stopped.

    Raises:
        UsageError: if `out` holds other files, a finished run, an unfinished one and `resume` is off, or one of another
            recipe; or if another training writes to it.
    """
    request = as_toml(request)
    there, lock = out.is_dir(), FileLock(out / _LOCK)
    claim(out, lock)
    try:
        with _entered(out, request, resume=resume):
            yield
    finally:
        (out / _LOCK).unlink(missing_ok=True)
        if not there and not any(out.iterdir()):
            out.rmdir()
        lock.release()


@contextmanager
def _entered(out: Path, request: dict[str, Any], *, resume: bool) -> Iterator[None]:
    unfinished = (out / RECIPE).is_file()
    if (out / MANIFEST).is_file():
        raise UsageError(f"--out {out} holds a trained backbone; name a new folder")
    if unfinished and not resume:
        raise UsageError(f"--out {out} holds an unfinished training; add --resume to go on, or name a new folder")
    if unfinished and (changed := changed_keys(read_toml(out / RECIPE, "recipe"), request)):
        raise UsageError(f"--out {out} holds the training of another recipe: {changed} differ; name a new folder")
    if not unfinished and not all(path.name.startswith((_LOCK, UNWRITTEN)) for path in out.iterdir()):
        raise UsageError(f"--out {out} holds files that are no training of selmix; name a new folder")
    remove_leftovers(out)
    if not unfinished:
        write_atomically(out / RECIPE, tomli_w.dumps(request))
    try:
        yield
    except BaseException:  # Ctrl-C as well
        if not unfinished and not any(any(out.glob(f"**/{name}")) for name in (CHECKPOINT, LOSS)):
            for name in (RECIPE, SPLITS_FILE, LOG, BEST, LAST, MODEL):
                (out / name).unlink(missing_ok=True)
            for name in (SEARCH, GENERATIONS, TENSORBOARD):
                shutil.rmtree(out / name, ignore_errors=True)
        raise


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the keys in which two recipes differ, `key` or `table.key`; an empty text if they are the same."""
    before, after = _flat(old), _flat(new)
    return ", ".join(sorted(key for key in before | after if before.get(key) != after.get(key)))


def as_toml(request: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as it is read back from a TOML file: without what is None, and with lists for tuples."""
    content: dict[str, Any] = json.loads(json.dumps(_without_none(request)))
    return content


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    tables = {key: value if isinstance(value, dict) else {"": value} for key, value in request.items()}
    return {f"{key}.{name}".strip("."): item for key, table in tables.items() for name, item in table.items()}


def _without_none(value: Any) -> Any:
    """TOML has no null: a key without a value is left out."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def earlier_checkpoint(state: TrainingState, folder: Path, origin: str) -> dict[str, Any]:
    """Let a training go on from the checkpoint in a folder, and return what was saved with it; nothing without one.

    Raises:
        DataError: if it is damaged, or of another origin: other data, or other first weights.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return {}
    extra = state.load(path, "origin")
    if extra["origin"] != origin:
        raise DataError(f"{path} is of other data or other first weights; bring those back, or begin in a new folder")
    return extra


@contextmanager
def named_checkpoint(folder: Path) -> Iterator[None]:
    """Let the error of a training that diverged say where its last good checkpoint is."""
    try:
        yield
    except DivergedError as error:
        path = folder / CHECKPOINT
        told = DivergedError(
            f"{error}; {f'the last good checkpoint is {path}' if path.is_file() else 'there is no checkpoint yet'}"
        )
        told.agreed = error.agreed
        raise told from error


class EpochLog:
    """The log of a training: a line an epoch in `metrics.jsonl`, and where wanted the same for TensorBoard."""

    def __init__(self, out: Path, *, tensorboard: bool = False):
        """Open the log in a folder.

        Raises:
            UsageError: if TensorBoard is wanted and not installed.
        """
        self._path = out / LOG
        self._writer = _summary_writer(out / TENSORBOARD) if tensorboard else None

    def __call__(self, record: dict[str, Any]) -> None:
        """Add the record of an epoch; those of epochs that are trained again after an interruption are replaced."""
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        kept = [line for line in lines if json.loads(line)["epoch"] < record["epoch"]]
        write_atomically(self._path, "".join(line + "\n" for line in [*kept, json.dumps(record)]))
        if self._writer is not None:
            for name, value in record.items():
                self._writer.add_scalar(name, value, record["epoch"])
            self._writer.flush()


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs TensorBoard: pip install 'selmix[tensorboard]'") from error
    return SummaryWriter(str(folder))
