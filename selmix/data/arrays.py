"""Arrays on disk: named `.npz` members read without pickle, and a digest of their content."""

import hashlib
from pathlib import Path

import numpy as np

from selmix.data.packed import refuse_bomb
from selmix.errors import DataError


def digest_of_arrays(arrays: dict[str, np.ndarray]) -> str:
    """Return the sha256 of names, shapes, dtypes and bytes; independent of compression and member order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read every member of an `.npz`.

    Raises:
        DataError: if the file is missing, is no `.npz`, is damaged, holds pickled objects, or inflates beyond reason.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the .npz file in it")
    if not path.is_file():
        raise DataError(f"no such file: {path}; check the path")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                arrays = {}
            else:
                inflated = sum(member.file_size for member in archive.zip.infolist())
                refuse_bomb(path, inflated, "write it with np.savez if you trust it")
                arrays = {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except Exception as error:  # whatever the readers raise on foreign bytes
        reason = getattr(error, "strerror", None) or "it is damaged, or something else"
        reason = "it holds Python objects" if "pickle" in str(error) else reason
        raise DataError(f"{path} is not a readable .npz of plain arrays ({reason}); write it with np.savez") from error
    if not arrays or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise DataError(f"{path} is no .npz of named arrays; write it with np.savez(path, train_features=..., ...)")
    return arrays
