"""A run on disk: one folder with what was asked, what came out, and what is needed to repeat it."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import tomli_w
import torch
from filelock import FileLock

from selmix.agreement import all_texts, together
from selmix.audit.document import PoolAudit
from selmix.audit.table import remove_tables, write_table
from selmix.checkpoints import save_tensors
from selmix.errors import UsageError
from selmix.features.labeled import FeatureData
from selmix.features.names import as_json
from selmix.head_file import head_metadata
from selmix.pipeline import Tuning
from selmix.ranks import ALONE, Ranks
from selmix.report.record import RECORD, REPORT
from selmix.report.samples import SAMPLES
from selmix.run_folders import claim
from selmix.writing import remove_leftovers, write_atomically

RESULT, UNFINISHED = "result.json", ".unfinished"
_SPLITS = "splits.json"
_GATHERED = 1 << 20  # sample names that still go into one file

logger = logging.getLogger(__name__)


@contextmanager
def run_folder(out: Path, *, overwrite: bool, result: str = RESULT, ranks: Ranks = ALONE) -> Iterator[bool]:
    """Make the run folder before anything expensive starts; take it away again if nothing came of it.

    A mark in it says that a run has begun and not ended; whoever comes later may replace what a killed run has left.
    Of several processes rank 0 does so; all fail if it cannot.

    Args:
        out: the folder.
        overwrite: whether a finished run in it may be replaced.
        result: name of the file that a finished run has.
        ranks: the processes.

    Yields:
        Whether finished runs inside of it may be replaced; rank 0 alone knows.

    Raises:
        UsageError: if `out` is a file or cannot be made, holds a run and `overwrite` is off, or holds other files.
    """
    lock, before, ended = FileLock(out / UNFINISHED), _stamp(out / result), False
    with together(ranks):
        if ranks.leads:
            overwrite = _enter(out, lock, overwrite=overwrite, result=result)
    try:
        yield overwrite
        ended = True
    finally:
        if ranks.leads and out.is_dir():
            after = _stamp(out / result)
            # a run that was interrupted behind its result lacks its report
            whole = after is not None and (ended or after == before)
            if whole or [path.name for path in out.iterdir()] == [UNFINISHED]:
                (out / UNFINISHED).unlink(missing_ok=True)
            if not any(out.iterdir()):
                out.rmdir()
        lock.release()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of its name; None if there is none."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def _enter(out: Path, lock: FileLock, *, overwrite: bool, result: str) -> bool:
    unfinished = (out / UNFINISHED).is_file()
    if not unfinished and out.is_dir() and any(out.iterdir()):
        if not (out / result).is_file():
            raise UsageError(f"--out {out} holds files that are no run of selmix; name a new folder")
        if not overwrite:
            raise UsageError(f"--out {out} holds a finished run; name a new folder or add --overwrite")
    claim(out, lock)
    if unfinished:
        logger.warning("%s holds what a run left that did not end; it is replaced", out)
        remove_leftovers(out)
    return overwrite or unfinished


def write_run(
    out: Path, document: dict[str, Any], tuning: Tuning, request: dict[str, Any], *, audit: PoolAudit | None = None
) -> None:
    """Write the run: head, split ids, history, request, the audit of a pool and, last, the result.

    Of several processes all must come here, and rank 0 writes. A million ids and more stay with the process that holds
    the samples: rank 3 writes them to `splits.rank3.json`, in the folder of that name on its own machine.

    Args:
        out: the prepared folder.
        document: from `selmix.result.describe`.
        tuning: what stage two did.
        request: what was asked, every default filled in; written as `recipe.toml`.
        audit: of the pool, if there is one.
    """
    ranks = tuning.data.ranks
    if ranks.leads:
        for old in (*(out / name for name in (RESULT, REPORT, RECORD, SAMPLES)), *out.glob("splits.rank*.json")):
            old.unlink(missing_ok=True)
        remove_tables(out)
    ranks.wait()
    _write_ids(out, tuning.data)
    if audit is not None:
        write_table(out, audit)
    if not ranks.leads:
        return
    head = tuning.head
    save_tensors({"weight": head.weight, "bias": head.bias}, out / "head.safetensors", head_metadata(document))
    write_atomically(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in tuning.refined.history))
    write_atomically(out / "recipe.toml", tomli_w.dumps(request))
    write_atomically(out / RESULT, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _write_ids(out: Path, data: FeatureData) -> None:
    ranks = data.ranks
    count = int(ranks.total(torch.tensor(sum(map(len, data.ids.values())))))
    if ranks.count == 1 or count >= _GATHERED:
        out.mkdir(parents=True, exist_ok=True)
        name = _SPLITS if ranks.leads else f"splits.rank{ranks.rank}.json"
        write_atomically(out / name, chain(as_json(data.ids), "\n"))
        return
    parts = [json.loads(text) for text in all_texts("".join(as_json(data.ids)), ranks)]
    if ranks.leads:
        ids = {split: [name for part in parts for name in part[split]] for split in data.ids}
        write_atomically(out / _SPLITS, json.dumps(ids) + "\n")


def is_run_of(out: Path, command: str) -> bool:
    """Return whether `out` holds a finished run of the verb `command`."""
    try:
        return json.loads((out / RESULT).read_text())["command"] == command
    except (OSError, ValueError, KeyError, TypeError):
        return False
