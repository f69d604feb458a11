"""Labeled images in splits: what the rest of selmix knows of a data set."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image

from selmix.data.decoding import open_image, to_rgb, unreadable
from selmix.errors import DataError

Stamp = tuple[int, int, int]


class ImageSource(Protocol):
    """Where the pixels of a split come from; it can be pickled, so that worker processes can read, too."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def open(self, position: int) -> Image.Image:
        """Return an RGB image; DataError names an unreadable one."""
        ...

    def stamp(self, position: int) -> Stamp | None:
        """Return size and times of the image's file; None for an image in memory, for which the data digest vouches."""
        ...

    def digest(self, position: int) -> str:
        """Return the sha256 of the image's file, or of its pixels where there is no file."""
        ...


@dataclass(frozen=True)
class FileImages:
    """Image files.

    Attributes:
        paths: one a position.
    """

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, position: int) -> Image.Image:
        """Return an RGB image.

        Raises:
            DataError: if it cannot be read.
        """
        return self.decode(position, self.paths[position])

    def decode(self, position: int, content: Path | BinaryIO) -> Image.Image:
        """Return an RGB image, given its path or the content of its file.

        Raises:
            DataError: if it cannot be read.
        """
        try:
            with open_image(content) as image:
                return to_rgb(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = unreadable(error)
            raise DataError(f"unreadable image {self.paths[position]} ({reason}); replace or remove it") from error

    def stamp(self, position: int) -> Stamp:
        """Return size, time of modification and time of change of the file, in bytes and nanoseconds.

        Raises:
            DataError: if it is gone.
        """
        try:
            status = self.paths[position].stat()
        except OSError as error:
            raise DataError(
                f"unreadable image {self.paths[position]} ({error.strerror}); bring it back, or mend its rights"
            ) from error
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def digest(self, position: int) -> str:
        """Return the sha256 of the file.

        Raises:
            DataError: if it cannot be read.
        """
        try:
            with self.paths[position].open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(
                f"unreadable image {self.paths[position]} ({error.strerror}); bring it back, or mend its rights"
            ) from error


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory.

    Attributes:
        pixels: uint8 [n, height, width], grey, or [n, height, width, 3].
    """

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def open(self, position: int) -> Image.Image:
        """Return an RGB image."""
        return Image.fromarray(self.pixels[position]).convert("RGB")

    def stamp(self, position: int) -> None:
        """Return None: there is no file."""

    def digest(self, position: int) -> str:
        """Return the sha256 of the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels[position]).data).hexdigest()


@dataclass(frozen=True)
class ImageSubset:
    """Some images of another source.

    Attributes:
        source: all images.
        positions: int64 [n], those that are meant.
    """

    source: ImageSource
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def open(self, position: int) -> Image.Image:
        """Return an RGB image."""
        return self.source.open(int(self.positions[position]))

    def stamp(self, position: int) -> Stamp | None:
        """Return the stamp that the other source gives."""
        return self.source.stamp(int(self.positions[position]))

    def digest(self, position: int) -> str:
        """Return the digest that the other source gives."""
        return self.source.digest(int(self.positions[position]))


@dataclass(frozen=True)
class JoinedImages:
    """The images of one source, and after them those of another.

    Attributes:
        first: one source.
        second: the other.
    """

    first: ImageSource
    second: ImageSource

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def open(self, position: int) -> Image.Image:
        """Return an RGB image."""
        source, own = self._place(position)
        return source.open(own)

    def stamp(self, position: int) -> Stamp | None:
        """Return the stamp that its source gives."""
        source, own = self._place(position)
        return source.stamp(own)

    def digest(self, position: int) -> str:
        """Return the digest that its source gives."""
        source, own = self._place(position)
        return source.digest(own)

    def _place(self, position: int) -> tuple[ImageSource, int]:
        beyond = position - len(self.first)
        return (self.first, position) if beyond < 0 else (self.second, beyond)


def origin_of(images: ImageSource, position: int) -> tuple[ImageSource, int]:
    """Return the source that holds an image, and its position there, through all subsets."""
    while isinstance(images, ImageSubset):
        position, images = int(images.positions[position]), images.source
    return images, position


def file_of(images: ImageSource, position: int) -> Path | None:
    """Return the file of an image; None if it has none of its own."""
    source, own = origin_of(images, position)
    return source.paths[own] if isinstance(source, FileImages) else None


@dataclass(frozen=True)
class ImageSplit:
    """The images of one split.

    Attributes:
        ids: one name per image, stable over time: a path under the data root, or an index into the source.
        labels: int64 [n]; None for unlabeled images.
        images: where the pixels come from, [n].
        groups: int64 [n], the group of each sample (background, hospital, ...); None if there are none.
        audit: int64 [n], of unlabeled images the labels that the source has all the same, -1 for an image of no known
            class; None if it has none. They serve to judge pseudo-labels: no digest and no head may depend on them.
    """

    ids: list[str]
    labels: np.ndarray | None
    images: ImageSource
    groups: np.ndarray | None = None
    audit: np.ndarray | None = None

    def subset(self, positions: np.ndarray) -> "ImageSplit":
        """Return the split restricted to `positions`, in that order."""
        return ImageSplit(
            ids=[self.ids[position] for position in positions],
            labels=None if self.labels is None else self.labels[positions],
            images=ImageSubset(self.images, positions),
            groups=None if self.groups is None else self.groups[positions],
            audit=None if self.audit is None else self.audit[positions],
        )

    def as_pool(self) -> "ImageSplit":
        """Return the same images without labels and groups; the labels are left for the audit."""
        return ImageSplit(self.ids, None, self.images, audit=self.audit if self.labels is None else self.labels)


@dataclass(frozen=True)
class ImageData:
    """A data set of images.

    Attributes:
        class_names: the class table, position = label; made once, from train.
        splits: `train`, and where they exist `val`, `test`, `unlabeled`.
        digest: sha256 that changes when a class, an id, a label or a group changes, but not with the labels for the
            audit; for images in memory also when a pixel does.
        group_names: the groups of samples, position = number; empty if there are none.
    """

    class_names: list[str]
    splits: dict[str, ImageSplit]
    digest: str
    group_names: list[str] = field(default_factory=list)
