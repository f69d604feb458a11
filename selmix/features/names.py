"""Names of samples: those of ready features are the numbers of their rows, and need no text until somebody asks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import torch

_AT_ONCE = 1 << 16  # names that are texts at a time


@dataclass(frozen=True, eq=False)
class RowNames(Sequence[str]):
    """Rows of a features file by their number: "0", "1" and so on; ten million texts would take 600 MB.

    Attributes:
        rows: the numbers, a range or int64 [n].

    >>> names = RowNames(range(10))
    >>> names[3], list(names[1::4]), list(picked(names, torch.tensor([7, 2])))
    ('3', ['1', '5', '9'], ['7', '2'])
    """

    rows: range | torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "RowNames": ...
    def __getitem__(self, place: int | slice) -> "str | RowNames":
        return RowNames(self.rows[place]) if isinstance(place, slice) else str(int(self.rows[place]))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            own = self.rows[start : start + _AT_ONCE]
            yield from map(str, own if isinstance(own, range) else own.tolist())

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence of names."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


def picked(names: Sequence[str], positions: torch.Tensor) -> Sequence[str]:
    """Return the names at `positions`, int64 [m]."""
    if not isinstance(names, RowNames):
        return [names[position] for position in positions.tolist()]
    rows = names.rows
    return RowNames(rows.start + rows.step * positions if isinstance(rows, range) else rows[positions])


def as_json(names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the pieces of the JSON document that `json.dumps` makes of lists of names, some names at a time."""
    for number, (key, own) in enumerate(names.items()):
        yield f"{', ' if number else '{'}{json.dumps(key)}: ["
        rest, between = iter(own), ""
        while some := list(islice(rest, _AT_ONCE)):
            yield between + json.dumps(some)[1:-1]
            between = ", "
        yield "]"
    yield "}" if names else "{}"
