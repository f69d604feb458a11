"""From what the user typed after --data to images in splits."""

from pathlib import Path

from selmix.data.findings import Survey, accepted
from selmix.data.folder import survey_folder
from selmix.data.images import ImageData
from selmix.data.manifest import MANIFEST_ENDINGS, survey_manifest
from selmix.data.shipped_images import load_shipped_images
from selmix.shipped import PREFIX


def survey_images(spec: str) -> Survey:
    """Read all but the pixels of a data set, and collect everything that is wrong with it.

    Args:
        spec: as for `open_images`.

    Returns:
        The data without the rows at fault (None if nothing is left), and the findings.

    Raises:
        UsageError: for a specification that cannot be understood.
    """
    if spec.startswith(PREFIX):
        return load_shipped_images(spec.removeprefix(PREFIX)), []
    path = Path(spec)
    if path.suffix.lower() in MANIFEST_ENDINGS:
        return survey_manifest(path)
    return survey_folder(path)


def open_images(spec: str) -> ImageData:
    """Open a data set by its specification.

    Args:
        spec: `shipped:NAME`, or a folder with train/ and optionally val/, test/ and unlabeled/.

    Raises:
        UsageError: for a specification that cannot be understood.
        DataError: naming the first faults, if the data are missing or faulty.
    """
    return accepted(survey_images(spec), spec)
