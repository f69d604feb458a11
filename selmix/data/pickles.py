"""Pickles of plain containers and number arrays, read without running anything that they name."""

import io
import pickle
import pickletools
from typing import IO, Any

import numpy as np

from selmix.errors import DataError

_DEEPEST = 1000  # tuples in each other
_REPEATED = 10  # times the bytes read so far, that content may become if an object counts wherever it is named
_SMALL = 2**20  # bytes; what is smaller costs little in any case
_PUT = ("PUT", "BINPUT", "LONG_BINPUT")  # an object is given a number by which it can be named again
_GET = ("GET", "BINGET", "LONG_BINGET")
_FROZEN = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")


def read_plain_pickle(content: bytes, place: str) -> Any:
    """Read a pickle of containers, strings, numbers and NumPy arrays of numbers.

    Args:
        content: the bytes; strings of Python 2 are read as Latin-1.
        place: for messages.

    Raises:
        DataError: if it is damaged or holds anything else.
    """
    try:
        refuse_abuse(io.BytesIO(content))
        return _Plain(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # whatever foreign bytes make the reader raise
        reason = str(error) if str(error).startswith("it ") else "it is damaged, or something else"
        raise DataError(f"{place} is no pickle of plain arrays ({reason}); fetch it again") from error


def refuse_abuse(pickled: IO[bytes]) -> None:
    """Refuse a pickle, from where a file stands, that would cost far more to be read than its size lets expect.

    It may number an object beyond its own size: the memo would take memory for all numbers below. Or it may have tuples
    of tuples, each named many times, as the key of a dictionary: hashing unfolds them all.

    Args:
        pickled: the file.

    Raises:
        pickle.UnpicklingError: if it does. What is damaged may raise anything.
    """
    stack: list[tuple[int, int]] = []  # of each object: how many it unfolds to, and how deep it goes
    marks: list[int] = []
    total = 0
    memo: dict[int, tuple[int, int]] = {}
    for code, argument, position in pickletools.genops(pickled):
        size = max(position or 0, _SMALL)
        if code.name in _GET:
            stack.append(memo[int(argument or 0)])
        elif code.name in _PUT or code.name == "MEMOIZE":
            number = len(memo) if argument is None else int(argument)
            if number > size:
                raise pickle.UnpicklingError("it numbers objects that it does not have")
            memo[number] = stack[-1]
        elif code.name == "DUP":
            stack.append(stack[-1])
        elif code.name == "MARK":
            marks.append(len(stack))
            stack.append((0, 0))
        else:
            start = len(stack) - len(code.stack_before)
            if pickletools.markobject in code.stack_before:
                start = marks[-1] - code.stack_before.index(pickletools.markobject)
            inner, unfolded, depth = sum(own for own, _ in stack[start:]), 1, 0
            total += inner
            if code.name in _FROZEN:
                unfolded += inner
                depth = 1 + max((own for _, own in stack[start:]), default=0)
            if total > _REPEATED * size or depth > _DEEPEST:
                raise pickle.UnpicklingError("it nests tuples beyond reason")
            stack[start:] = [(unfolded, depth)] * len(code.stack_after)
            while marks and marks[-1] >= len(stack):
                marks.pop()


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
