"""One block of a feature cache: rows in a `.npy`, and the `.json` beside it that vouches for them."""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selmix.data.images import Stamp
from selmix.writing import write_atomically

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SEAL = "sha256"


class Torn(Exception):
    """What lies on disk is not what was written; the text says what is wrong."""


class Absent(Torn):
    """Nothing was written yet."""


@dataclass(frozen=True)
class Images:
    """What was read to make the rows of a block.

    Attributes:
        stamps: of the file of each image; None for one in memory, or that is gone.
        digests: sha256 of the file of each image, None likewise.
        bad: position in the block -> why the image there could not be read; its row is zeros.
    """

    stamps: list[Stamp | None] = field(default_factory=list)
    digests: list[str | None] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)


def stored(features: torch.Tensor) -> np.ndarray:
    """Return features as the array that is written: NumPy has no bfloat16, its bits go as uint16."""
    return (features.view(torch.uint16) if features.dtype == torch.bfloat16 else features).numpy()


def write_block(folder: Path, number: int, features: torch.Tensor, images: Images, *, key: str) -> None:
    """Write a block so that it is there whole or not at all, whatever happens meanwhile.

    Args:
        folder: of the split.
        number: of the block.
        features: [rows, d] in the dtype of the cache.
        images: what was read.
        key: of the cache that the block belongs to.

    Raises:
        OSError: if it cannot be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, stored(features))
    content = buffer.getvalue()
    write_atomically(block_path(folder, number), content)
    record = {
        "key": key,
        "block": _place(folder, number),
        "rows": list(features.shape),
        "digest": hashlib.sha256(content).hexdigest(),
    }
    write_record(folder, number, record, images)


def write_record(folder: Path, number: int, record: dict[str, Any], images: Images) -> None:
    """Write the record of a block, which makes it exist."""
    parts = {
        "stamps": images.stamps,
        "digests": images.digests,
        "bad": {str(row): reason for row, reason in images.bad.items()},
    }
    write_sealed(record_path(folder, number), record | {"images": parts})


def read_record(folder: Path, number: int, *, key: str, rows: int, width: int) -> tuple[dict[str, Any], Images]:
    """Read the record of a block, and what was read to make it.

    Raises:
        Torn: if there is none, or it is damaged or belongs elsewhere.
    """
    record = read_sealed(record_path(folder, number))
    if record.get("key") != key or record.get("rows") != [rows, width]:
        raise Torn("it belongs to another cache")
    if record.get("block") != _place(folder, number):
        raise Torn(f"it was written as {record.get('block')}")
    try:
        parts = record.pop("images")
        stamps = [None if stamp is None else tuple(stamp) for stamp in parts["stamps"]]
        bad = {int(row): reason for row, reason in parts["bad"].items()}
        return record, Images(stamps, parts["digests"], bad)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # whoever wrote it can seal it
        raise Torn(f"{record_path(folder, number).name} is no record of a block") from error


def verify_block(folder: Path, number: int, record: dict[str, Any]) -> None:
    """Compare the file of a block with its record, reading it once.

    Raises:
        Torn: if they differ.
    """
    try:
        with block_path(folder, number).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Torn(f"it cannot be read ({error.strerror})") from error
    if digest != record["digest"]:
        raise Torn("it is damaged")


def map_block(folder: Path, number: int, *, rows: int, width: int, dtype: str) -> torch.Tensor:
    """Return the verified rows of a block, [rows, width], on a memory map that keeps no file open."""
    path, kind = block_path(folder, number), DTYPES[dtype]
    start = path.stat().st_size // kind.itemsize - rows * width
    flat = torch.from_file(str(path), shared=False, size=start + rows * width, dtype=kind)
    return flat[start:].view(rows, width)


def _place(folder: Path, number: int) -> str:
    return f"{folder.name}/{number}"


def block_path(folder: Path, number: int) -> Path:
    """Return the path of the rows of a block."""
    return folder / f"{number:05d}.npy"


def record_path(folder: Path, number: int) -> Path:
    """Return the path of the record of a block."""
    return folder / f"{number:05d}.json"


def write_sealed(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document that carries its own sha256."""
    sealed = document | {_SEAL: _seal(document)}
    write_atomically(path, json.dumps(sealed).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON document that carries its own sha256.

    Raises:
        Torn: if it is missing, or not as it was written.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise Absent(f"{path.name} is missing") from error
    except OSError as error:
        raise Torn(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Torn(f"{path.name} is damaged") from error
    if not isinstance(document, dict) or document.pop(_SEAL, None) != _seal(document):
        raise Torn(f"{path.name} is damaged")
    return document


def _seal(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
