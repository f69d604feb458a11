"""Every pseudo-label as a row of `pseudo_labels.csv`."""

import csv
import io
from pathlib import Path

import torch

from selmix.agreement import all_texts
from selmix.audit.document import PoolAudit
from selmix.writing import write_atomically

NO_CLASS = "(none)"
_NAME = "pseudo_labels"
_GATHERED = 1 << 20  # rows that still go into one file


def remove_tables(out: Path) -> None:
    """Remove the tables of an earlier run."""
    for old in out.glob(f"{_NAME}*.csv"):
        old.unlink()


def write_table(out: Path, audit: PoolAudit) -> None:
    """Write all pseudo-labels; with a million and more of several processes, rank 3 to `pseudo_labels.rank3.csv`.

    Columns: id; pseudo_label, empty where the source abstains; source; confidence; selected, whether rules and guard
    let it pass; what each source says by itself; and `audit`, where classes are known, `(none)` for none of these.
    """
    ranks = audit.data.ranks
    header, rows = _text([_header(audit)]), _text(_rows(audit))
    if ranks.count > 1 and audit.document["count"] >= _GATHERED:
        out.mkdir(parents=True, exist_ok=True)
        name = _NAME if ranks.leads else f"{_NAME}.rank{ranks.rank}"
        return _write(out / f"{name}.csv", header + rows)
    parts = all_texts(rows.encode(errors="replace").decode(), ranks) if ranks.count > 1 else [rows]
    if ranks.leads:
        _write(out / f"{_NAME}.csv", header + "".join(parts))


def _header(audit: PoolAudit) -> list[str]:
    known = audit.data.unlabeled is not None and audit.data.unlabeled.audit is not None
    return ["id", "pseudo_label", "source", "confidence", "selected", *audit.told, *(["audit"] if known else [])]


def _rows(audit: PoolAudit) -> zip:
    pool, found = audit.data.unlabeled, audit.labels.found
    assert pool is not None
    columns = [
        audit.data.ids["unlabeled"],
        _named(found.classes, audit),
        [audit.source] * len(found.classes),
        [f"{value:.4f}" for value in found.confidence.tolist()],
        (audit.labels.of_head[-1] >= 0).int().tolist(),
        *(_named(own, audit) for own in audit.told.values()),
    ]
    if pool.audit is not None:
        columns.append(_named(pool.audit, audit, nothing=NO_CLASS))
    return zip(*columns, strict=True)


def _named(classes: torch.Tensor, audit: PoolAudit, nothing: str = "") -> list[str]:
    names = [*audit.data.class_names, nothing]  # -1 is the last
    return [names[label] for label in classes.tolist()]


def _text(rows: object) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode(errors="surrogateescape"))  # names that are no UTF-8 come back byte for byte
