"""The data that a data spec describes."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selmix.data.assembly import assemble
from selmix.data.carving import carve_train
from selmix.data.findings import Finding, Survey, fault, listed
from selmix.data.folder import read_folder
from selmix.data.images import ImageData
from selmix.data.lists import read_list
from selmix.data.manifest import read_manifest
from selmix.data.rows import SPLITS, Rows
from selmix.data.spec import DataSpec, SplitPlace, load_data_spec
from selmix.data.splits_file import select_splits
from selmix.errors import UsageError


def survey_spec(path: Path, survey_source: Callable[[str], Survey]) -> Survey:
    """Read the data that a TOML file names.

    Args:
        path: of the file; paths in it are relative to its folder.
        survey_source: reads what `source` names.

    Raises:
        UsageError: for a file that cannot be understood, and for draws that the data do not allow.
    """
    spec = load_data_spec(path)
    if spec.source is not None:
        data, findings = survey_source(_beside(path, spec.source))
    else:
        data, findings = _survey_splits(path.parent, spec)
    if data is None or (spec.splits is None and spec.longtail is None and spec.semi is None):
        return data, findings
    if any(finding.severity == "error" for finding in findings):
        return data, findings  # what is drawn from faulty data means nothing
    if spec.splits is not None:
        data, own = select_splits(data, path.parent / spec.splits)
        return data, findings + own
    return _drawn(path, spec, data), findings


def _drawn(path: Path, spec: DataSpec, data: ImageData) -> ImageData:
    table = spec.longtail or spec.semi
    assert table is not None
    try:
        return carve_train(data, table.counts(len(data.class_names)), seed=table.seed)
    except UsageError as error:
        raise UsageError(f"data spec {path}: {error}") from error


def _beside(path: Path, source: str) -> str:
    """Return a source whose path is relative to the folder of the data spec."""
    prefix, colon, rest = source.rpartition(":")
    if prefix == "shipped":
        return source
    return f"{prefix}{colon}{path.parent / Path(rest).expanduser()}"


def _survey_splits(folder: Path, spec: DataSpec) -> Survey:
    findings: list[Finding] = []
    class_names = _class_names(folder, spec.classes, findings)
    base = folder if spec.root is None else folder / Path(spec.root).expanduser()
    rows = {}
    for split in SPLITS:
        place = getattr(spec, split)
        found = None if place is None else _rows(folder, base, spec.root is None, place, split, class_names, findings)
        if found is not None:
            rows[split] = found
    if "train" not in rows:
        return None, findings
    findings = list(dict.fromkeys(findings))  # a manifest that several splits name is read several times
    return assemble(rows, findings, class_names=class_names), findings


def _rows(
    folder: Path, base: Path, files_are_roots: bool, place: SplitPlace, split: str, class_names: list[str] | None,
    findings: list[Finding],
) -> Rows | None:  # fmt: skip
    """Read one split; without `root`, paths in a list or manifest are relative to that file's folder."""
    if place.folder is not None:
        return read_folder(base, os.path.normpath(place.folder), split, findings)
    file = folder / (place.list or place.manifest or "")
    prefix = os.path.relpath(file.parent, base) if files_are_roots else ""
    options: dict[str, Any] = {
        "root": base, "prefix": prefix, "findings": findings, "class_names": class_names, "rewrite": place.rewrite,
    }  # fmt: skip
    if place.list is not None:
        return read_list(file, split=split, **options)
    manifest = read_manifest(file, only=split, **options)
    return None if manifest is None else manifest[split]


def _class_names(folder: Path, classes: list[str] | str | None, findings: list[Finding]) -> list[str] | None:
    """Return the explicit class table: the list, or the lines of the file."""
    if isinstance(classes, str):
        path = folder / classes
        try:
            classes = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not written in UTF-8"
            message = f"the class names in {path} cannot be read ({reason})"
            findings.append(fault("classes", message, "name a text file with one class name a line", path=path))
            return None
    if classes is not None and (twice := [name for name, count in Counter(classes).items() if count > 1 or not name]):
        findings.append(
            fault("classes", f"`classes` has names twice or empty: {listed(map(repr, twice))}", "name each class once")
        )
    return classes
