"""Pickles of plain containers and number arrays, read without running anything that they name."""

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from selmix.errors import DataError

_PUT = ("PUT", "BINPUT", "LONG_BINPUT")  # an object is given a number by which it can be named again


def read_plain_pickle(content: bytes, place: str) -> Any:
    """Read a pickle of containers, strings, numbers and NumPy arrays of numbers.

    Args:
        content: the bytes; strings of Python 2 are read as Latin-1.
        place: for messages.

    Raises:
        DataError: if it is damaged or holds anything else.
    """
    try:
        _refuse_far_places(content)
        return _Plain(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # whatever foreign bytes make the reader raise
        reason = str(error) if str(error).startswith("it ") else "it is damaged, or something else"
        raise DataError(f"{place} is no pickle of plain arrays ({reason}); fetch it again") from error


def _refuse_far_places(content: bytes) -> None:
    """Refuse a pickle that numbers an object beyond its own size: the memo would take memory for all numbers below."""
    for code, argument, _ in pickletools.genops(content):
        if code.name in _PUT and isinstance(argument, int) and argument > len(content):
            raise pickle.UnpicklingError("it numbers objects that it does not have")


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what an array is rebuilt with; refuse all else."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED[module, name]


def _number_dtype(name: str, *_: object) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"it has an array of {dtype}")
    return dtype


def _empty(*_: object) -> np.ndarray:
    """Return what the content of an array is put into, whose size is that of the content, whatever was asked for."""
    return np.empty(0, np.int8)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it has bytes in {encoding}")
    return text.encode("latin1")


# the same functions live in numpy.core up to version 1 and in numpy._core from version 2 on
_REBUILD: dict[str, Any] = {
    "multiarray._reconstruct": _empty,
    "numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
}
_ALLOWED: dict[tuple[str, str], Any] = {
    (f"numpy.{core}.{function.partition('.')[0]}", function.partition(".")[2]): rebuild
    for core in ("core", "_core")
    for function, rebuild in _REBUILD.items()
} | {("numpy", "ndarray"): _empty, ("numpy", "dtype"): _number_dtype, ("_codecs", "encode"): _latin1}
