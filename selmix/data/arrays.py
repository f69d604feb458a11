"""Arrays on disk: named `.npz` members read without pickle, and a digest of their content."""

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

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
        DataError: if the file is missing, is no `.npz`, is damaged, or holds pickled objects.
    """
    if not path.is_file():
        raise DataError(f"no such features file: {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array; write a .npz with np.savez(path, train_features=..., ...)")
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable .npz of plain arrays ({error}); write it with np.savez") from error
