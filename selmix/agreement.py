"""Several processes that fail together, and what they have to say put in a row."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from selmix.errors import DataError, SelmixError, UsageError
from selmix.ranks import Ranks

_KINDS = (UsageError, DataError)


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Let all ranks fail if one does, with the error of the first that did; nobody waits for one that has gone.

    What is done within must not communicate.

    Raises:
        UsageError, DataError: as raised within, on this rank or another.
    """
    error = None
    try:
        yield
    except SelmixError as own:
        if ranks.count == 1:
            raise
        error = own
    if ranks.count == 1:
        return
    kind = next((number for number, own in enumerate(_KINDS) if isinstance(error, own)), 0)
    for said in all_texts("" if error is None else f"{kind}{error}", ranks):
        if said:
            shared = _KINDS[int(said[0])](said[1:])
            shared.agreed = True
            raise shared from error


def all_texts(text: str, ranks: Ranks) -> list[str]:
    """Return the text of every rank, in the order of the ranks."""
    own = torch.frombuffer(bytearray(text.encode()) or bytearray(1), dtype=torch.uint8)[: len(text.encode())]
    lengths = ranks.gathered(torch.tensor([len(own)])).tolist()
    return [part.numpy().tobytes().decode() for part in ranks.gathered(own).split(lengths)]
