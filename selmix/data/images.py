"""Labeled images in splits: what the rest of selmix knows of a data set."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class ImageSplit:
    """The images of one split.

    Attributes:
        ids: one name per image, stable over time: a path under the data root, or an index into the source.
        labels: int64 [n]; None for unlabeled images.
        open_image: position -> RGB image; raises DataError for an unreadable one.
    """

    ids: list[str]
    labels: np.ndarray | None
    open_image: Callable[[int], Image.Image]

    def subset(self, positions: np.ndarray) -> "ImageSplit":
        """Return the split restricted to `positions`, in that order."""
        return ImageSplit(
            ids=[self.ids[position] for position in positions],
            labels=None if self.labels is None else self.labels[positions],
            open_image=lambda position: self.open_image(int(positions[position])),
        )


@dataclass(frozen=True)
class ImageData:
    """A data set of images.

    Attributes:
        class_names: the class table, position = label; made once, from train.
        splits: `train`, and where they exist `val`, `test`, `unlabeled`.
        digest: sha256 that changes when a class, an id or a label changes.
    """

    class_names: list[str]
    splits: dict[str, ImageSplit]
    digest: str


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; 16-bit grey is scaled down, where Pillow would clip it to white.

    Raises:
        ValueError: for floating-point pixels, whose range nobody knows.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")


def stack_images(split: ImageSplit, size: tuple[int, int]) -> np.ndarray:
    """Read all images into one array, uint8 [n, 3, height, width], resized where they differ from `size`."""
    height, width = size
    stack = np.empty((len(split.ids), 3, height, width), dtype=np.uint8)
    for position in range(len(split.ids)):
        image = split.open_image(position)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        stack[position] = np.asarray(image).transpose(2, 0, 1)
    return stack
