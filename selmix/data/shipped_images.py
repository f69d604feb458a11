"""The image sets that ship with selmix, verified against their manifest at load."""

import hashlib
import json

import numpy as np

from selmix.data.arrays import digest_of_arrays, read_npz
from selmix.data.images import ArrayImages, ImageData, ImageSplit
from selmix.errors import DataError
from selmix.shipped import read_manifest, shipped_folder


def load_shipped_images(name: str) -> ImageData:
    """Load a shipped image set.

    Raises:
        UsageError: if no set of that name ships.
        DataError: if a file does not match the manifest.
    """
    folder = shipped_folder(name, "train.npz")
    manifest = read_manifest(folder, "class_names", "splits")
    splits = {}
    for split, facts in manifest["splits"].items():
        arrays = read_npz(folder / f"{split}.npz")
        if digest_of_arrays(arrays) != facts["sha256"]:
            raise DataError(f"{folder / split}.npz does not match manifest.json; reinstall selmix")
        splits[split] = _array_split(arrays)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return ImageData(manifest["class_names"], splits, digest)


def _array_split(arrays: dict[str, np.ndarray]) -> ImageSplit:
    return ImageSplit(
        ids=[str(index) for index in arrays["ids"]],
        labels=arrays.get("labels"),
        images=ArrayImages(arrays["images"]),
    )
