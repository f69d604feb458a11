"""Predictions as rows: of a CSV or Parquet file that appears when it is whole, or of a JSON document."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from selmix.data.manifest import MANIFEST_ENDINGS
from selmix.errors import DataError, UsageError
from selmix.writing import new_file

_Row = list[Any]
_GROUP = 1 << 20  # numbers in a row group of a Parquet file
_FIRST = 20  # rows that a person looks at


@dataclass(frozen=True)
class Layout:
    """The columns: `path`, `class`, its `probability`, and then either of two.

    All probabilities, each under `p_` and the name of the class; or with `top` the next likely classes and their
    probabilities, `class_2`, `probability_2` and so on.

    Attributes:
        class_names: the class table.
        top: how many classes to name, at least 1; None for all probabilities.
    """

    class_names: list[str]
    top: int | None = None

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns."""
        if self.top is None:
            return ["path", "class", "probability", *(f"p_{name}" for name in self.class_names)]
        others = range(2, min(self.top, len(self.class_names)) + 1)
        return ["path", "class", "probability", *(f"{kind}_{n}" for n in others for kind in ("class", "probability"))]

    def rows(self, names: list[str], probabilities: torch.Tensor) -> list[_Row]:
        """Return the rows of some images, given their names and probabilities [b, k]."""
        count = min(self.top or 1, len(self.class_names))
        values, classes = probabilities.topk(count, dim=1)
        rows: list[_Row] = []
        for name, own_values, own_classes in zip(names, values.tolist(), classes.tolist(), strict=True):
            pairs = zip((self.class_names[label] for label in own_classes), own_values, strict=True)
            rows.append([name, *(cell for pair in pairs for cell in pair)])
        if self.top is None:
            rows = [[*row, *own] for row, own in zip(rows, probabilities.tolist(), strict=True)]
        return rows


class Sheet(Protocol):
    """What takes rows."""

    def add(self, rows: list[_Row]) -> None:
        """Write some rows."""
        ...


class _Csv:
    def __init__(self, path: Path, layout: Layout, stack: ExitStack) -> None:
        # names that are no UTF-8 come back byte for byte
        file = stack.enter_context(path.open("w", encoding="utf-8", errors="surrogateescape", newline=""))
        self._writer = csv.writer(file)
        self._writer.writerow(layout.columns)

    def add(self, rows: list[_Row]) -> None:
        self._writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)


class _Parquet:
    def __init__(self, path: Path, layout: Layout, stack: ExitStack) -> None:
        text = [name in ("path", "class") or bool(layout.top and name.startswith("class_")) for name in layout.columns]
        kinds = [pa.string() if own else pa.float32() for own in text]
        self._schema = pa.schema(list(zip(layout.columns, kinds, strict=True)))
        self._waiting: list[_Row] = []
        self._height = max(1, _GROUP // len(layout.columns))
        self._file = stack.enter_context(pq.ParquetWriter(path, self._schema))
        stack.callback(self._flush)  # before the file is closed

    def add(self, rows: list[_Row]) -> None:
        self._waiting += rows
        if len(self._waiting) >= self._height:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            columns = [list(column) for column in zip(*self._waiting, strict=True)]
            columns[0] = [printable(name) for name in columns[0]]
            arrays = [pa.array(own, kind.type) for own, kind in zip(columns, self._schema, strict=True)]
            self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._waiting = []


_KINDS: dict[str, Callable[[Path, Layout, ExitStack], Sheet]] = {".csv": _Csv, ".parquet": _Parquet}
assert set(_KINDS) == set(MANIFEST_ENDINGS)


def check_sheet(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that predictions cannot be written to, before anything expensive starts.

    Raises:
        UsageError: for an ending that is unknown, a folder that is missing, or a file that is there.
    """
    if path.suffix.lower() not in _KINDS:
        raise UsageError(f"--out must end in {' or '.join(_KINDS)}, got {path}")
    check_target(path, overwrite=overwrite)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that is there already, unless it may be replaced, and one in a folder that is not there.

    Raises:
        UsageError: in both cases.
    """
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--out {path} lies in no folder that exists; make it first")
    if path.exists() and not overwrite:
        raise UsageError(f"--out {path} is there already; name a new file or add --overwrite")


@contextmanager
def new_sheet(path: Path, layout: Layout) -> Iterator[Sheet]:
    """Give a sheet to write to, which becomes the file when all went well, and of which nothing is left otherwise."""
    try:
        with new_file(path) as temporary, ExitStack() as stack:
            yield _KINDS[path.suffix.lower()](temporary, layout, stack)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}); name another --out") from error


@dataclass
class Tally:
    """What is remembered of all rows: how many of each class, and the first few.

    Attributes:
        counts: class -> images.
        first: the first rows.
        spool: a file for all rows, where they are to be printed as JSON; None otherwise.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: list[_Row] = field(default_factory=list)
    spool: IO[str] | None = None

    @property
    def total(self) -> int:
        """Return the number of rows."""
        return self.counts.total()

    def add(self, rows: list[_Row]) -> None:
        """Take down some rows."""
        self.counts.update(row[1] for row in rows)
        self.first += rows[: max(0, _FIRST - len(self.first))]
        if self.spool is not None:
            self.spool.writelines(json.dumps(row) + "\n" for row in rows)

    def objects(self, layout: Layout) -> Iterator[str]:
        """Yield every row in the spool as a JSON object."""
        assert self.spool is not None
        self.spool.seek(0)
        for line in self.spool:
            yield json.dumps(dict(zip(layout.columns, json.loads(line), strict=True)))


def printable(text: str) -> str:
    """Return text that is UTF-8: file names need not be."""
    return text.encode("utf-8", "backslashreplace").decode()
