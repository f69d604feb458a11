"""The columns of a CSV or Parquet file as strings, with the number of each row in the file."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from selmix.data.findings import Finding, caution, fault, listed
from selmix.data.listing import Listing
from selmix.data.packed import bomb

_ROWS_OF_ANY = 1_000_000  # of a Parquet file of any size; a larger one has at least a byte a row
_COLUMNS = ("path", "label", "split", "group")


class Unusable(Exception):
    """The file as a whole cannot be read; the arguments are message and remedy."""


@dataclass(frozen=True)
class Columns:
    """What a manifest holds.

    Attributes:
        listing: the file and its row numbers.
        of: the columns that are there, of `path`, `label`, `split` and `group`; nothing is an empty string.
    """

    listing: Listing
    of: dict[str, pa.Array]


def read_columns(path: Path, findings: list[Finding], *, required: tuple[str, ...]) -> Columns:
    """Read the known columns; odd lines and unknown columns are findings.

    Args:
        path: of the file.
        findings: grows.
        required: the columns that must be there.

    Raises:
        Unusable: if the file cannot be read or lacks a column.
    """
    if not path.is_file():
        raise Unusable("is no file", "check the path")
    gaps: list[tuple[int, str]] = []
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
            name_of = _known_columns(list(schema.names), path, findings, required)
            table, first = _read_parquet(path, schema, list(name_of.values())), 1
        else:
            header = _csv_header(path)
            name_of = _known_columns(header, path, findings, required)
            table, gaps = _read_csv(path, header, list(name_of.values()))
            first = 2
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        if isinstance(error, UnicodeDecodeError) or "UTF8" in reason:
            raise Unusable("is not written in UTF-8", "save it as CSV UTF-8") from error
        raise Unusable(f"cannot be read ({reason})", "write it anew") from error
    numbers = np.delete(np.arange(first, first + len(table) + len(gaps)), [number - first for number, _ in gaps])
    listing = Listing(path, "row", numbers, findings)
    odd = [number for number, text in gaps if text.strip()]
    if odd:
        message = f"{path}, row{'s' * (len(odd) > 1)} {listed(odd)}: not as many cells as the header has"
        findings.append(fault("cells", message, 'put "..." around a cell with a comma', path=path))
    return _without_blank_rows(
        Columns(listing, {known: _strings(table.column(own), own) for known, own in name_of.items()})
    )


def _without_blank_rows(columns: Columns) -> Columns:
    filled = np.zeros(len(columns.listing.numbers), dtype=bool)
    for column in columns.of.values():
        filled |= pc.not_equal(column, "").to_numpy(zero_copy_only=False)
    if filled.all():
        return columns
    listing = replace(columns.listing, numbers=columns.listing.numbers[filled])
    return Columns(listing, {name: column.filter(pa.array(filled)) for name, column in columns.of.items()})


def _csv_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), None)
    if not header:
        raise Unusable("is empty", "the first line names the columns: path,label")
    return header


def _read_csv(path: Path, header: list[str], wanted: list[str]) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Return the wanted columns, and number and text of the lines that are no rows."""
    gaps: list[tuple[int, str]] = []

    def skip(row: pacsv.InvalidRow) -> str:
        gaps.append((row.number, row.text))
        return "skip"

    table = pacsv.read_csv(
        path,
        read_options=pacsv.ReadOptions(column_names=header, skip_rows=1, use_threads=False),
        parse_options=pacsv.ParseOptions(invalid_row_handler=skip, ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(header, pa.string())),
    )
    return table, gaps


def _read_parquet(path: Path, schema: pa.Schema, wanted: list[str]) -> pa.Table:
    """Return the wanted columns, those of text as codes in what they repeat, which a small file may do without end."""
    text = [name for name in wanted if _is_text(_plain(schema.field(name).type))]
    with pq.ParquetFile(path, read_dictionary=text) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        # a damaged file may say one number of rows, and a group of it another one
        rows, size = max(file.metadata.num_rows, *(group.num_rows for group in groups), 0), path.stat().st_size
        if rows > max(_ROWS_OF_ANY, size):
            raise Unusable(f"has {rows} rows in {size} bytes", "no list of different images is so short; write it anew")
        packed = sum(group.total_byte_size for group in groups)
        _refuse_bomb(size, packed)
        table = file.read(columns=wanted)
    table.validate(full=True)  # text is UTF-8, and codes stand for something
    _refuse_bomb(size, sum(map(_expanded, table.columns)))
    return table


def _refuse_bomb(size: int, inflated: int) -> None:
    fault = bomb(size, inflated)
    if fault:
        raise Unusable(fault, "write it as CSV if you trust it")


def _expanded(column: pa.ChunkedArray) -> int:
    """Return the bytes of a column once no word stands for another one."""
    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return column.nbytes
    lengths = (pc.take(pc.binary_length(chunk.dictionary), chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(own.cast(pa.int64())).as_py() or 0 for own in lengths)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _known_columns(header: list[str], path: Path, findings: list[Finding], required: tuple[str, ...]) -> dict[str, str]:
    """Return the column of the file for each known name; blanks and case do not count."""
    plain = [name.strip().lower() for name in header]
    twice = [name for name in _COLUMNS if plain.count(name) > 1]
    if twice:
        raise Unusable(f"has the column {listed(twice)} twice", "keep one")
    others = [name for name in header if name.strip().lower() not in _COLUMNS]
    meant = {name: near for name in others if (near := _near(name, plain)) is not None}
    missing = [name for name in required if name not in plain]
    if missing or meant:
        hints = [f"did you mean {near} by {name}?" for name, near in meant.items()]
        hints += ["cells are separated by commas"] * (len(header) == 1)
        what = f"lacks the column {listed(missing)}" if missing else f"has the unknown column {listed(meant)}"
        raise Unusable(f"{what} (it has {listed(header, 10)})", " ".join(hints) or f"name it in the header: {_usage()}")
    if others:
        message = f"{path}: ignored the columns {listed(others)}"
        findings.append(caution("columns", message, f"the known ones are {', '.join(_COLUMNS)}", path=path))
    return {name: header[plain.index(name)] for name in _COLUMNS if name in plain}


_MEANT = {
    "paths": "path", "file": "path", "filename": "path", "file_name": "path", "filepath": "path", "image": "path",
    "labels": "label", "class": "label", "class_name": "label", "target": "label", "category": "label",
    "splits": "split", "subset": "split", "partition": "split", "phase": "split", "groups": "group",
}  # fmt: skip


def _near(name: str, present: list[str]) -> str | None:
    """Return the known column that an unknown name may stand for, unless that is there as well."""
    near = _MEANT.get(name.strip().lower())
    return None if near in present else near


def _usage() -> str:
    return "path,label and where wanted split,group"


def _strings(column: pa.ChunkedArray, name: str) -> pa.Array:
    """Return a column as strings; nothing is an empty one."""
    kind = _plain(column.type)
    if not (_is_text(kind) or pa.types.is_integer(kind)):
        if not (pa.types.is_floating(kind) and name.strip().lower() == "label"):
            raise Unusable(f"has a column {name} of {kind}", "write strings or integers")
        # 1.0 stays 1.0, so that its rows are named
        words = ["" if value is None or value != value else repr(value) for value in column.to_pylist()]
        return pa.array(words, pa.string())
    text = pc.fill_null(column.cast(pa.string()), "").combine_chunks()
    text = pa.concat_arrays(text.chunks) if isinstance(text, pa.ChunkedArray) else text
    return text if name.strip().lower() == "path" else pc.utf8_trim_whitespace(text)
