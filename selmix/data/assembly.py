"""From the rows of every split, by class name, to images with labels: the class table, groups and digest."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from selmix.data.class_table import name_findings, order_findings, twin_findings
from selmix.data.findings import Finding, fault, listed
from selmix.data.images import ImageData, ImageSplit, file_of
from selmix.data.repeats import repeat_findings
from selmix.data.rows import Coded, Rows, in_order


def assemble(
    rows_of_split: dict[str, Rows], findings: list[Finding], *, class_names: list[str] | None = None
) -> ImageData | None:
    """Hold every split to one class table, and add to the findings what does not fit.

    Args:
        rows_of_split: train, and others.
        findings: those of the readers; grows.
        class_names: the class table; None to make it from train.

    Returns:
        The data without the rows at fault, None if train has no class or no image.
    """
    train = rows_of_split["train"]
    assert train.classes is not None
    table = class_names if class_names is not None else train.classes.names
    table_place = train.place if class_names is None else "`classes`"
    if not table:
        return None
    if class_names is None:
        findings += order_findings(table, train.place)
    for split, rows in rows_of_split.items():
        if rows.classes is not None:
            names = rows.classes.names
            findings += twin_findings(names, split=split, place=rows.place)
            findings += name_findings(names, table, split=split, place=rows.place, table_place=table_place)
    findings += repeat_findings(rows_of_split)
    if not train.ids:
        return None
    group_names = _group_names(rows_of_split, findings)
    splits = {split: split_of_rows(rows, table, group_names) for split, rows in rows_of_split.items()}
    return ImageData(table, splits, digest_of_images(table, splits, group_names), group_names)


def _group_names(rows_of_split: dict[str, Rows], findings: list[Finding]) -> list[str]:
    """Return the groups of train and val in order; groups that only test has are a finding."""
    own = {split: set(rows.groups.names) for split, rows in rows_of_split.items() if rows.groups is not None}
    known = own.get("train", set()) | own.get("val", set())
    unknown = sorted(own.get("test", known) - known)
    if unknown:
        findings.append(
            fault(
                "groups",
                f"{rows_of_split['test'].place} has the group {listed(unknown)}, which is no group of train or val",
                "bring samples of the group, or mend its name",
                split="test",
            )
        )
    return in_order(known)


def split_of_rows(rows: Rows, table: list[str], group_names: list[str]) -> ImageSplit:
    """Return the rows whose class, and group, is known; unlabeled images may be of any class."""
    labels = None if rows.classes is None else _recoded(rows.classes, table)
    groups = None if rows.groups is None or rows.classes is None else _recoded(rows.groups, group_names)
    audit = None if rows.audit is None else audit_labels(rows.audit, table)
    split = ImageSplit(rows.ids, labels, rows.images, groups, audit)
    known = np.ones(len(rows.ids), dtype=bool)
    for column in (labels, groups):
        if column is not None:
            known &= column >= 0
    return split if known.all() else split.subset(np.flatnonzero(known))


def audit_labels(column: Coded, table: list[str]) -> np.ndarray | None:
    """Return the positions in `table`, -1 for what it lacks; None if it lacks all: folders of dates are no classes."""
    labels = _recoded(column, table)
    return labels if (labels >= 0).any() else None


def _recoded(column: Coded, table: list[str]) -> np.ndarray:
    """Return the positions in `table`, -1 for what it lacks."""
    position_of = {name: position for position, name in enumerate(table)}
    return np.array([position_of.get(name, -1) for name in column.names], dtype=np.int64)[column.codes]


def digest_of_images(class_names: list[str], splits: dict[str, ImageSplit], group_names: Sequence[str] = ()) -> str:
    """Return the sha256 of class names, ids, labels and groups, and of the pixels of images in memory."""
    digest = hashlib.sha256(json.dumps([class_names, list(group_names)]).encode())
    for name, split in splits.items():
        digest.update(json.dumps([name, split.ids]).encode())
        for numbers in (split.labels, split.groups):
            digest.update(b"none" if numbers is None else np.ascontiguousarray(numbers, dtype="<i8").tobytes())
        if split.ids and file_of(split.images, 0) is None:
            for position in range(len(split.ids)):
                digest.update(split.images.digest(position).encode())
    return digest.hexdigest()
