"""CSV and Parquet manifests: columns path, label, and where wanted split and group."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selmix.data.assembly import assemble
from selmix.data.columns import Columns, Unusable, read_columns
from selmix.data.findings import Finding, Survey, fault, listed
from selmix.data.images import FileImages
from selmix.data.listing import audited, coded, image_ids, in_class_table, refuse_files
from selmix.data.rows import MISNAMED, SPLITS, PathsUnder, Rows, is_integer
from selmix.errors import suggestion

MANIFEST_ENDINGS = (".csv", ".parquet")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|NaN|inf")


def survey_manifest(path: Path) -> Survey:
    """Read a manifest that names all splits."""
    findings: list[Finding] = []
    rows = read_manifest(path, root=path.parent, prefix="", findings=findings)
    if rows is None:
        return None, findings
    return assemble(rows, findings), findings


def read_manifest(
    path: Path,
    *,
    root: Path,
    prefix: str,
    findings: list[Finding],
    only: str | None = None,
    class_names: list[str] | None = None,
    rewrite: tuple[str, str] | None = None,
) -> dict[str, Rows] | None:
    """Read a manifest; rows at fault are left out and make a finding for each kind of fault.

    Args:
        path: of the manifest.
        root: folder that ids are relative to.
        prefix: folder under `root` that the paths in the manifest are relative to.
        findings: grows.
        only: the split that is wanted; a manifest without split column is then all of it, else all of train.
        class_names: an explicit class table, for integer labels.
        rewrite: beginning of a path to replace, and by what.

    Returns:
        The rows of each split; None if there is nothing to work on.
    """
    try:
        required = ("path",) if only == "unlabeled" else ("path", "label")
        columns = read_columns(path, findings, required=required)
    except Unusable as error:
        findings.append(fault("manifest", f"{path} {error.args[0]}", error.args[1], path=path))
        return None
    listing = columns.listing
    count = len(listing.numbers)
    split_of = _splits(columns, only or "train")
    if only is not None:
        split_of[split_of != SPLITS.index(only)] = -1
    good = split_of >= 0
    paths = columns.of["path"]
    empty = pc.equal(pc.utf8_trim_whitespace(paths), "").to_numpy(zero_copy_only=False) & good
    listing.refuse(np.flatnonzero(empty), "empty path", "no path", "fill or remove them")
    good &= ~empty
    if "label" in columns.of:
        good &= ~_label_faults(columns, split_of, good)
    if "group" in columns.of:
        bare = _equals(columns.of["group"], "") & good & (split_of != SPLITS.index("unlabeled"))
        listing.refuse(
            np.flatnonzero(bare), "no group", "no group, where others have one", "give every row a group, or none"
        )
        good &= ~bare
    rows = {}
    for number, split in enumerate(SPLITS):
        chosen = np.flatnonzero(good & (split_of == number))
        if len(chosen):
            rows[split] = _rows(columns, chosen, split, root, prefix, class_names, rewrite)
    wanted = only or "train"
    if wanted not in rows:
        message = f"{path} has no usable row of {wanted}" if count else f"{path} has no rows"
        findings.append(fault("no rows", message, f"add rows with split {wanted}", path=path, split=wanted))
        return None
    return rows


def _rows(
    columns: Columns, chosen: np.ndarray, split: str, root: Path, prefix: str,
    class_names: list[str] | None, rewrite: tuple[str, str] | None,
) -> Rows:  # fmt: skip
    """Return the rows of one split whose files are there; a class without them stays in the table."""
    taken = pa.array(chosen)
    classes = groups = audit = None
    if class_names is not None and all(map(is_integer, class_names)):
        class_names = None  # integers are names then
    if split == "unlabeled":
        audit = audited(columns.of["label"].take(taken), class_names) if "label" in columns.of else None
    else:
        classes = in_class_table(coded(columns.of["label"].take(taken)), class_names)
        groups = coded(columns.of["group"].take(taken)) if "group" in columns.of else None
    paths = columns.of["path"].take(taken).to_pylist()
    ids = image_ids(paths, prefix, rewrite)
    gone = refuse_files(
        columns.listing, chosen, paths, ids, root=root, prefix=prefix, rewrite=rewrite, split=split, classes=classes
    )
    place = f"{split} of {columns.listing.path}"
    images = FileImages(PathsUnder(root, ids))
    rows = Rows(place, ids, images, classes, groups, columns.listing.numbers[chosen], columns.listing.unit, audit)
    return rows.without(gone)


def _splits(columns: Columns, default: str) -> np.ndarray:
    """Return the position in SPLITS of each row, -1 where it is none."""
    if "split" not in columns.of:
        return np.full(len(columns.listing.numbers), SPLITS.index(default))
    encoded = columns.of["split"].dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    for code, name in enumerate(names):
        if name not in SPLITS:
            right = MISNAMED.get(name.lower())
            hint = f"did you mean {right}?" if right else suggestion(name, SPLITS)
            what = f"unknown split {name!r}" if name else "no split"
            columns.listing.refuse(np.flatnonzero(codes == code), "split name", what, hint)
    known = np.array([SPLITS.index(name) if name in SPLITS else -1 for name in names], dtype=np.int64)
    return known[codes]


def _label_faults(columns: Columns, split_of: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return which rows have an impossible label: none, or among numbers one that is no integer from 0."""
    labels, listing = columns.of["label"], columns.listing
    labeled = good & (split_of != SPLITS.index("unlabeled"))
    bad = _equals(labels, "") & labeled
    for number, split in enumerate(SPLITS):
        remedy = "fill them, or put the rows in split unlabeled"
        listing.refuse(np.flatnonzero(bad & (split_of == number)), "no label", "no label", remedy, split=split)
    encoded = labels.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    used = [names[code] for code in np.unique(codes[labeled & ~bad])]
    if all(_NUMBER.fullmatch(name) for name in used):
        wrong = {name for name in used if not is_integer(name) and not (name.isdecimal() and name.isascii())}
        code_is_wrong = np.array([name in wrong for name in names], dtype=bool)
        odd = code_is_wrong[codes] & labeled & ~bad if names else bad
        what = f"labels that are no integers from 0: {listed(sorted(wrong))}"
        listing.refuse(np.flatnonzero(odd), "label", what, "write integers (pandas: .astype('Int64')) or names")
        bad |= odd
    return bad


def _equals(column: pa.Array, word: str) -> np.ndarray:
    return pc.equal(column, word).to_numpy(zero_copy_only=False)
