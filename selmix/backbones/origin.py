"""What came with a file of weights: its architecture, class table and preprocessing, as far as they are known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selmix.backbones.preprocessing import Preprocessing
from selmix.checkpoints import file_digest, read_metadata
from selmix.errors import DataError, UsageError
from selmix.shipped import read_manifest

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Origin:
    """What is known of weights.

    Attributes:
        architecture: timm's name of the model, if the weights say it.
        class_names: the classes of the classifier in the order of its outputs, if they are named.
        preprocessing: what the weights were trained with, as far as it is not the architecture's.
        trained_on: digest of the train split that they have learnt; None if it is not known.
    """

    architecture: str | None
    class_names: list[str] | None
    preprocessing: Preprocessing
    trained_on: str | None = None


def origin_of_folder(folder: Path) -> Origin:
    """Read the manifest of a folder written by stage one, after seeing that it vouches for the weights.

    Raises:
        DataError: if the manifest is missing, faulty, or of other weights.
    """
    if (folder / "checkpoint.pt").is_file() and not (folder / "manifest.json").is_file():
        raise DataError(f"{folder} holds an unfinished training; finish it with `selmix train ... --resume`")
    if not (folder / "manifest.json").is_file():
        raise DataError(
            f"{folder} is no folder of `selmix train`: it has no manifest.json; name a checkpoint with --arch, or "
            "timm:NAME"
        )
    manifest = read_manifest(folder, "architecture", "class_names", "input_size", "mean", "std", "sha256")
    weights = folder / WEIGHTS
    if file_digest(weights) != manifest["sha256"]:
        raise DataError(f"{weights} does not match the sha256 of its manifest; restore the folder, or reinstall selmix")
    return _origin(manifest, None, source=str(folder / "manifest.json"))


def origin_of_file(path: Path) -> Origin:
    """Read the metadata of a checkpoint, and the file CHECKPOINT.classes.txt beside it, which goes before them.

    Raises:
        DataError: if they are faulty.
    """
    table = path.with_name(f"{path.name}.classes.txt")
    names = None
    if table.is_file():
        try:
            lines = table.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not written in UTF-8"
            raise DataError(f"{table} cannot be read ({reason}); write one class name a line, in UTF-8") from error
        names = _class_table([line.strip() for line in lines if line.strip()], source=str(table))
    return _origin(read_metadata(path), names, source=f"the metadata of {path}")


def _origin(content: dict[str, Any], class_names: list[str] | None, *, source: str) -> Origin:
    architecture = content.get("architecture")
    if not isinstance(architecture, str | None):
        raise DataError(f"{source}: architecture must be a name, got {architecture!r:.80}; mend it")
    if class_names is None and "class_names" in content:
        class_names = _class_table(content["class_names"], source=source)
    try:
        size = content.get("input_size")
        preprocessing = Preprocessing(None if size is None else size[1:], content.get("mean"), content.get("std"))
    except (TypeError, UsageError) as error:
        raise DataError(f"{source}: {error}") from error
    data = content.get("data")
    digest = data.get("digest") if isinstance(data, dict) else None
    return Origin(architecture, class_names, preprocessing, digest if isinstance(digest, str) else None)


def _class_table(names: Any, *, source: str) -> list[str]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{source} must name every class of the classifier in a list, got {names!r:.80}; mend it")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{source} names {', '.join(twice[:5])} more than once; every class has a name of its own")
    return names
