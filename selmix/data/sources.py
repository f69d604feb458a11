"""From what the user typed after --data to images in splits."""

from pathlib import Path

from selmix.data.folder import load_image_folder
from selmix.data.images import ImageData
from selmix.data.shipped_images import load_shipped_images
from selmix.shipped import PREFIX


def open_images(spec: str) -> ImageData:
    """Open a data set by its specification.

    Args:
        spec: `shipped:NAME`, or a folder with train/ and optionally val/, test/ and unlabeled/.

    Raises:
        UsageError: for an unknown shipped name.
        DataError: if the data are missing or faulty.
    """
    if spec.startswith(PREFIX):
        return load_shipped_images(spec.removeprefix(PREFIX))
    return load_image_folder(Path(spec))
