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

DATA_ROOTS = "SELMIX_DATA_ROOTS"  # environment variable: folders that rows may lead to, separated as in PATH
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


def strays(root: Path, ids: Sequence[str], *, prefix: str = "", rewrite: tuple[str, str] | None = None) -> list[int]:
    """Return the positions of ids that lead out of the data, to where nobody has allowed.

    Allowed are `root`, the file's own folder, what a rewrite writes in front, and the folders in `DATA_ROOTS`. Links on
    the disk are followed wherever they lead.

    Args:
        root: folder that ids are relative to.
        ids: of images, without `.` and `..` but at the beginning.
        prefix: of the file's own folder.
        rewrite: beginning of a path that was replaced, and by what.
    """
    suspects = [position for position, name in enumerate(ids) if name.startswith(("/", ".."))]
    if not suspects:
        return []
    ours = [root, root / prefix]
    if rewrite is not None:
        ours.append(root / prefix / posixpath.dirname(rewrite[1]))
    ours += [Path(folder) for folder in os.environ.get(DATA_ROOTS, "").split(os.pathsep) if folder]
    # as they are written and as they are: an id may have the one or the other
    allowed = {own.rstrip("/") + "/" for folder in ours for own in (os.path.abspath(folder), os.path.realpath(folder))}
    base = os.path.abspath(root)
    return [
        position
        for position in suspects
        if not posixpath.normpath(posixpath.join(base, ids[position])).startswith(tuple(allowed))
    ]


def stray_remedy(root: Path, names: Sequence[str]) -> str:
    """Return what to do about paths that lead out of the data."""
    base = os.path.abspath(root)
    folder = posixpath.commonpath(posixpath.dirname(posixpath.normpath(posixpath.join(base, name))) for name in names)
    return f"if they are meant, allow the folder: {DATA_ROOTS}={folder}, or `root` in a data spec"


def refuse_strays(
    listing: Listing, positions: np.ndarray, paths: Sequence[str], ids: Sequence[str], *, root: Path, prefix: str = "",
    rewrite: tuple[str, str] | None = None, split: str = "",
) -> list[int]:  # fmt: skip
    """Make a finding of rows that lead out of the data, and return which of the n rows these are; as `refuse_files`."""
    astray = strays(root, ids, prefix=prefix, rewrite=rewrite)
    if astray:
        what = f"paths that lead out of the data, the first is {paths[astray[0]]}"
        remedy = stray_remedy(root, [ids[own] for own in astray])
        listing.refuse(positions[astray], "path outside", what, remedy, split=split)
    return astray


def refuse_files(
    listing: Listing, positions: np.ndarray, paths: Sequence[str], ids: Sequence[str], *, root: Path, prefix: str,
    rewrite: tuple[str, str] | None, split: str, classes: "Coded | None",
) -> list[int]:  # fmt: skip
    """Make findings of rows that lead out of the data, and of those without a file.

    Args:
        listing: the file.
        positions: int64 [n], of these rows in it.
        paths: [n], as they stand there.
        ids: [n].
        root: folder that ids are relative to.
        prefix: of the file's own folder.
        rewrite: beginning of a path that was replaced, and by what.
        split: of the rows.
        classes: of the rows, where they have any.

    Returns:
        Which of the n rows these are.
    """
    astray = refuse_strays(listing, positions, paths, ids, root=root, prefix=prefix, rewrite=rewrite, split=split)
    known = set(astray)
    gone = [position for position in missing_files(root, ids) if position not in known]
    if gone:
        what = f"no such file, the first is {root / ids[gone[0]]}"
        remedy = unfitting(paths, rewrite) or missing_remedy(root, ids[gone[0]])
        name = common_name(classes, gone)
        listing.refuse(positions[gone], "missing file", what, remedy, split=split, class_name=name)
    return sorted(astray + gone)


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
