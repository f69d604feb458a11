"""What manifests and list files have in common: rows that name an image file and a class."""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from selmix.data.findings import Finding, fault, listed
from selmix.data.rows import Coded, in_order, is_integer

_UNTIDY = re.compile(r"(^|/)\.{0,2}(/|$)|//|^$")


@dataclass(frozen=True)
class Listing:
    """A file with rows.

    Attributes:
        path: of the file, for messages.
        unit: `row` or `line`.
        numbers: int64 [n], the number of each row in the file.
        findings: grows.
    """

    path: Path
    unit: str
    numbers: np.ndarray
    findings: list[Finding] = field(repr=False)

    def refuse(
        self, positions: Iterable[int], kind: str, what: str, remedy: str, *, split: str = "", class_name: str = ""
    ) -> None:
        """Add one finding for all rows with the same fault; none if there are no rows.

        Args:
            positions: of the rows.
            kind: of the finding.
            what: the fault.
            remedy: what to do.
            split: of the rows.
            class_name: of the rows.
        """
        chosen = np.fromiter(positions, dtype=np.int64)
        if len(chosen):
            message = f"{self.path}, {self.called(chosen)}: {what}"
            self.findings.append(fault(kind, message, remedy, path=self.path, split=split, class_name=class_name))

    def called(self, positions: np.ndarray) -> str:
        """Return `row 2`, or `rows 2, 3 and 40 more`."""
        return f"{self.unit}{'s' * (len(positions) > 1)} {listed(self.numbers[positions])}"


def image_ids(paths: Sequence[str], prefix: str, rewrite: tuple[str, str] | None) -> list[str]:
    """Return one id a path: rewritten, under `prefix` unless it is absolute, without `.`, `..` and `//`.

    >>> image_ids(["data/a.jpg", "./b.jpg", "/c.jpg"], "photos", ("data/", "old/"))
    ['photos/old/a.jpg', 'photos/b.jpg', '/c.jpg']
    """
    if rewrite is not None:
        old, new = rewrite
        paths = [new + path.removeprefix(old) if path.startswith(old) else path for path in paths]
    if prefix not in ("", "."):
        paths = [f"{prefix}/{path}" if path[:1] != "/" else path for path in paths]
    return [posixpath.normpath(path) if _UNTIDY.search(path) else path for path in paths]


def unfitting(paths: Sequence[str], rewrite: tuple[str, str] | None) -> str:
    """Return what to do about a rewrite that changes no path; empty if there is none, or it changes some."""
    if rewrite is None or any(path.startswith(rewrite[0]) for path in paths):
        return ""
    return f"mend `rewrite`: no path begins with {rewrite[0]}"


def missing_files(root: Path, ids: Sequence[str]) -> list[int]:
    """Return the positions of ids without a file, looking into every folder once."""
    files_of: dict[str, set[str]] = {}
    missing = []
    for position, name in enumerate(ids):
        folder, slash, file = name.rpartition("/")
        files = files_of.get(folder)
        if files is None:
            files = files_of[folder] = _files(root / (folder or slash))
        if file not in files:
            missing.append(position)
    return missing


def _files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir()}
    except (OSError, ValueError):  # a name with a zero byte is no name
        return set()


def missing_remedy(root: Path, name: str) -> str:
    """Return what to do about a file that is not there."""
    if "\\" in name:
        return "write / between folders"
    near = [file for file in _files((root / name).parent) if file.casefold() == Path(name).name.casefold()]
    if near:
        return f"did you mean {near[0]}? Upper and lower case count"
    return f"bring them, mend the paths (they are relative to {root}) or remove the rows"


def coded(words: "pa.Array | Sequence[str]") -> Coded:
    """Return a column by its different words, those in the order of a class table.

    >>> coded(["10", "2", "10"])
    Coded(names=['2', '10'], codes=array([1, 0, 1]))
    """
    encoded = (words if isinstance(words, pa.Array) else pa.array(words, pa.string())).dictionary_encode()
    found = encoded.dictionary.to_pylist()
    names = in_order(found)
    position_of = {name: position for position, name in enumerate(names)}
    positions = np.array([position_of[name] for name in found], dtype=np.int64)
    return Coded(names, positions[encoded.indices.to_numpy(zero_copy_only=False)])


def common_name(column: Coded | None, positions: list[int]) -> str:
    """Return the word that all these rows have, empty if they differ."""
    codes = set() if column is None else set(column.codes[positions].tolist())
    return column.names[codes.pop()] if column is not None and len(codes) == 1 else ""


def in_class_table(classes: Coded, class_names: list[str] | None) -> Coded:
    """Name integer labels by their position in an explicit class table, if there is one; other labels are names."""
    return _at_positions(classes, class_names) if all(map(is_integer, classes.names)) else classes


def audited(words: "pa.Array | Sequence[str]", class_names: list[str] | None = None) -> Coded:
    """Return the classes that the source has for unlabeled images, empty for none, named likewise one by one."""
    return _at_positions(coded(words), class_names)


def _at_positions(classes: Coded, class_names: list[str] | None) -> Coded:
    if class_names is None:
        return classes
    known = {str(position): name for position, name in enumerate(class_names)}
    return Coded([known.get(name, name) for name in classes.names], classes.codes)
