"""Arrays on disk: named `.npz` members read without pickle, and a digest of their content."""

import hashlib
import mmap
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from selmix.data.packed import refuse_bomb
from selmix.errors import DataError

CELLS = 1 << 20  # numbers in memory at a time
LARGE = 1 << 26  # bytes of an array from which on it may stay on disk
_CHUNK = 1 << 20  # bytes that are read at a time
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LOCAL, _LENGTHS = 30, 26  # of the header before a member: its size, and where it tells the sizes of name and extras


def digest_of_arrays(arrays: dict[str, np.ndarray]) -> str:
    """Return the sha256 of names, shapes, dtypes and bytes; independent of compression and member order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        for block in array_blocks(np.atleast_1d(array)):
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def array_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array [n, ...] some rows at a time; of a memory map, pages that were read are given back."""
    height = max(1, CELLS // max(1, array[:1].size))
    for start in range(0, len(array), height):
        yield array[start : start + height]
        give_back(array)


def give_back(array: np.ndarray) -> None:
    """Let the kernel take back the pages of a memory map, which are read anew when they are needed."""
    pages = getattr(array, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def read_npz(path: Path, *, mapped: bool = False) -> dict[str, np.ndarray]:
    """Read every member of an `.npz`.

    Args:
        path: the file.
        mapped: leave large matrices of float16 and float32 on a memory map, where they are not compressed and lie so
            that a processor can read them; their checksum is verified all the same. The file must stay as it is.

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
                arrays = _members(path, archive, mapped)
    except DataError:
        raise
    except Exception as error:  # whatever the readers raise on foreign bytes
        reason = getattr(error, "strerror", None) or "it is damaged, or something else"
        reason = "it holds Python objects" if "pickle" in str(error) else reason
        raise DataError(f"{path} is not a readable .npz of plain arrays ({reason}); write it with np.savez") from error
    if not arrays or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise DataError(f"{path} is no .npz of named arrays; write it with np.savez(path, train_features=..., ...)")
    return arrays


def _members(path: Path, archive: np.lib.npyio.NpzFile, mapped: bool) -> dict[str, np.ndarray]:
    assert archive.zip is not None  # it is open
    maps = {name: _map_of(path, archive.zip, f"{name}.npy") if mapped else None for name in archive.files}
    return {name: archive[name] if own is None else own for name, own in maps.items()}


def _map_of(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """Return a verified member on a memory map; None if it is small, or cannot be mapped."""
    if name not in archive.namelist():
        return None
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < LARGE:
        return None
    with archive.open(info) as member, path.open("rb") as file:
        read_header = _HEADERS.get(np.lib.format.read_magic(member))
        if read_header is None:
            return None
        shape, by_column, kind = read_header(member)
        file.seek(info.header_offset + _LENGTHS)
        start = info.header_offset + _LOCAL + sum(struct.unpack("<HH", file.read(4))) + member.tell()
        native = kind in (np.float16, np.float32) and kind.isnative and sys.byteorder == "little"
        if by_column or not native or len(shape) != 2 or start % kind.itemsize:
            return None
        while member.read(_CHUNK):  # to its end, where the checksum is compared
            pass
    return np.memmap(path, kind, "c", start, shape)
