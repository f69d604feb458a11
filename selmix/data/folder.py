"""Image folders: ROOT/{train,val,test}/CLASS/image, and ROOT/unlabeled with or without class folders."""

import hashlib
import logging
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from selmix.data.images import FileImages, ImageData, ImageSplit
from selmix.errors import DataError

logger = logging.getLogger("selmix")

SPLITS = ("train", "val", "test", "unlabeled")
_MISNAMED = {
    "training": "train", "valid": "val", "validation": "val", "dev": "val", "eval": "val", "testing": "test",
    "unlabelled": "unlabeled",
}  # fmt: skip


def load_image_folder(root: Path) -> ImageData:
    """Read the file names of an image folder; the class table is made from `train` and every split is held to it.

    Raises:
        DataError: if the folder or `train` is missing, a split lacks a class or has one too many, or a class is empty.
    """
    if not (root / "train").is_dir():
        missing = root if not root.is_dir() else root / "train"
        raise DataError(f"no such folder: {missing}; expected {root}/train/CLASS/image.jpg (and val, test likewise)")
    _check_split_names(root)
    folders = {split: _class_folders(root / split) for split in ("train", "val", "test") if (root / split).is_dir()}
    class_names = folders["train"]
    if not class_names:
        raise DataError(f"{root / 'train'} has no class folders; expected {root}/train/CLASS/image.jpg")
    splits = {split: _labeled_split(root, split, found, class_names) for split, found in folders.items()}
    if (root / "unlabeled").is_dir():
        splits["unlabeled"] = _path_split(root, _image_paths(root / "unlabeled"), None)
    return ImageData(class_names, splits, _digest(class_names, splits))


def _check_split_names(root: Path) -> None:
    """Refuse a split under another name, and say what else is left alone."""
    names = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for name in names:
        if name.lower() in _MISNAMED:
            right = _MISNAMED[name.lower()]
            raise DataError(f"the folder {root / name} would be left out; did you mean {right}? rename it")
    ignored = [name for name in names if name not in SPLITS]
    if ignored:
        logger.warning("ignored folders in %s: %s; the splits are %s", root, ", ".join(ignored), ", ".join(SPLITS))


def _class_folders(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    loose = [path.name for path in folder.iterdir() if path.is_file() and path.suffix.lower() in IMG_EXTENSIONS]
    if loose:
        logger.warning("ignored %d image(s) in %s that lie in no class folder", len(loose), folder)
    hidden = [name for name in names if name.startswith(".")]
    if hidden:
        logger.warning("ignored hidden folders in %s: %s", folder, ", ".join(hidden))
    return [name for name in names if name not in hidden]


def _labeled_split(root: Path, split: str, found: list[str], class_names: list[str]) -> ImageSplit:
    missing, extra = sorted(set(class_names) - set(found)), sorted(set(found) - set(class_names))
    if missing or extra:
        faults = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"adds {', '.join(extra)}"] * bool(extra)
        raise DataError(
            f"the classes of {root / split} are not those of {root / 'train'}: it {' and '.join(faults)}; "
            "every split needs the same class folders, by name"
        )
    paths, labels = [], []
    for label, name in enumerate(class_names):
        members = _image_paths(root / split / name)
        if not members:
            raise DataError(f"class folder {root / split / name} has no images; add some or remove the class")
        paths += members
        labels += [label] * len(members)
    return _path_split(root, paths, np.array(labels, dtype=np.int64))


def _image_paths(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    ignored = [path.name for path in files if path.suffix.lower() not in IMG_EXTENSIONS]
    if ignored:
        logger.warning("ignored %d file(s) in %s that are no images, the first is %s", len(ignored), folder, ignored[0])
    return [path for path in files if path.suffix.lower() in IMG_EXTENSIONS]


def _path_split(root: Path, paths: list[Path], labels: np.ndarray | None) -> ImageSplit:
    return ImageSplit([path.relative_to(root).as_posix() for path in paths], labels, FileImages(paths))


def _digest(class_names: list[str], splits: dict[str, ImageSplit]) -> str:
    digest = hashlib.sha256("\n".join(class_names).encode())
    for split, content in splits.items():
        digest.update(f"\n[{split}]\n".encode())
        digest.update("\n".join(content.ids).encode())
        if content.labels is not None:
            digest.update(content.labels.tobytes())
    return digest.hexdigest()
