"""Exact duplicates: the same bytes twice, within a split, between splits, under two classes."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from selmix.check.reading import Reading, class_of, place_of
from selmix.data.findings import Finding, caution, fault
from selmix.data.images import ImageData, file_of

ORDER = ("train", "val", "unlabeled", "test")  # of the copies of an image, the one to keep first


class Place(NamedTuple):
    """An image of a data set."""

    split: str
    position: int


def duplicate_findings(data: ImageData, readings: dict[str, Reading]) -> Iterator[Finding]:
    """Yield a finding for every further copy of an image, naming the copy it is held against."""
    for copies in groups_of_copies(readings):
        for number, copy in enumerate(copies[1:], 1):
            earlier = copies[:number]
            label = _label(data, copy)
            rival = next((other for other in earlier if label >= 0 <= _label(data, other) != label), None)
            finding = _finding(data, copy, rival or earlier[0], conflict=rival is not None)
            if not _same_file(data, copy, rival or earlier[0]):  # one file listed twice is a finding of the readers
                yield finding


def groups_of_copies(readings: dict[str, Reading]) -> Iterator[list[Place]]:
    """Yield the places of every image that occurs more than once, in the order of ORDER."""
    splits = [split for split in ORDER if split in readings]
    facts = [readings[split].facts for split in splits]
    keys = np.concatenate([own["digest"] for own in facts]).view("<u8")
    read = np.flatnonzero(np.concatenate([own["readable"] for own in facts]))
    starts = np.cumsum([0, *map(len, facts)])
    order = read[np.lexsort((read, *keys[read].T))]  # equal digests side by side, in order of place
    if not len(order):
        return
    borders = np.flatnonzero((keys[order[1:]] != keys[order[:-1]]).any(1)) + 1
    ends = np.append(borders, len(order))
    for start, end in zip(np.append(0, borders), ends, strict=True):
        if end - start > 1:
            yield [_place(int(row), splits, starts) for row in order[start:end]]


def _place(row: int, splits: list[str], starts: np.ndarray) -> Place:
    number = int(np.searchsorted(starts, row, side="right")) - 1
    return Place(splits[number], row - int(starts[number]))


def _same_file(data: ImageData, copy: Place, other: Place) -> bool:
    one, two = (file_of(data.splits[place.split].images, place.position) for place in (copy, other))
    return one is not None and two is not None and os.path.abspath(one) == os.path.abspath(two)


def _label(data: ImageData, place: Place) -> int:
    labels = data.splits[place.split].labels
    return -1 if labels is None else int(labels[place.position])


def _finding(data: ImageData, copy: Place, other: Place, *, conflict: bool) -> Finding:
    names = [class_of(data, *place) for place in (copy, other)]
    paths = [place_of(place.split, data.splits[place.split], place.position) for place in (copy, other)]
    between = f"in {copy.split}" if copy.split == other.split else f"in {other.split} and in {copy.split}"
    where = {"path": paths[0], "split": copy.split, "class_name": names[0]}
    if conflict:
        message = f"the same image is {names[0]} and {names[1]} ({between})"
        finding = fault("label conflict", message, "decide on one class, and remove the other copy", **where)
    elif copy.split == "test" != other.split:
        message = f"the same image is {between}: test figures would be too good"
        finding = fault("leak", message, "move it out of test, or out of the other split", **where)
    else:
        twice = "twice " if copy.split == other.split else ""
        finding = caution("duplicate", f"the same image is {twice}{between}", "keep one copy", **where)
    return replace(finding, other_path=paths[1], similarity=1.0)
