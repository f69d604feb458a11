"""The rows of one split, as every reader returns them, before the class table is known."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from selmix.data.images import FileImages

SPLITS = ("train", "val", "test", "unlabeled")
MISNAMED = {
    "training": "train", "valid": "val", "validation": "val", "dev": "val", "eval": "val", "testing": "test",
    "unlabelled": "unlabeled",
}  # fmt: skip


_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")


def is_integer(word: str) -> bool:
    """Return whether a label is a plain integer from 0.

    >>> [is_integer(word) for word in ("0", "17", "007", "-1", "1.0", "cat")]
    [True, True, False, False, False, False]
    """
    return _INTEGER.fullmatch(word) is not None


def in_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of a class table: that of numbers if all are plain integers, else that of strings.

    >>> in_order(["10", "2"]), in_order(["10", "2", "a"])
    (['2', '10'], ['10', '2', 'a'])
    """
    every = list(names)
    return sorted(every, key=int) if all(map(is_integer, every)) else sorted(every)


@dataclass(frozen=True)
class Coded:
    """A column of words.

    Attributes:
        names: the different words, in the order that a class table made from them has.
        codes: int64 [n], position in `names`.
    """

    names: list[str]
    codes: np.ndarray


@dataclass(frozen=True)
class Rows:
    """What a reader found for one split.

    Attributes:
        place: how messages call it.
        ids: [n].
        images: [n].
        classes: the class of each row; None for unlabeled images.
        groups: the group of each row; None if there are none.
        numbers: int64 [n], the number of each row in the file that lists it; None if no file does.
        unit: what is numbered, `row` or `line`.
        audit: the class that the source has for each unlabeled image, empty for none; None where it has none.
    """

    place: str
    ids: list[str]
    images: FileImages
    classes: Coded | None
    groups: Coded | None = None
    numbers: np.ndarray | None = None
    unit: str = ""
    audit: Coded | None = None

    def without(self, positions: list[int]) -> "Rows":
        """Return all rows but some."""
        if not positions:
            return self
        left = np.delete(np.arange(len(self.ids)), positions)
        ids = [self.ids[position] for position in left]
        classes, groups, audit = (
            None if column is None else Coded(column.names, column.codes[left])
            for column in (self.classes, self.groups, self.audit)
        )
        numbers = None if self.numbers is None else self.numbers[left]
        images = FileImages([self.images.paths[position] for position in left.tolist()])
        return replace(self, ids=ids, images=images, classes=classes, groups=groups, numbers=numbers, audit=audit)

    def called(self, position: int) -> str:
        """Return where a row stands in the file that lists it."""
        assert self.numbers is not None
        return f"{self.unit} {self.numbers[position]}"

    def class_of(self, position: int) -> str:
        """Return the name of a row's class, empty if it has none."""
        return self.classes.names[self.classes.codes[position]] if self.classes is not None else ""


class PathsUnder(Sequence[Path]):
    """Paths made when they are asked for: a million `Path`s would cost more memory than the names."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, position: int) -> Path: ...
    @overload
    def __getitem__(self, position: slice) -> "PathsUnder": ...
    def __getitem__(self, position: int | slice) -> "Path | PathsUnder":
        if isinstance(position, slice):
            return PathsUnder(self.root, self.names[position])
        return self.root / self.names[position]
