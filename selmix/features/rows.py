"""Features too large for memory: read in blocks of rows, and gathered from several arrays as if from one.

Whatever they are stored in, rows are read as float32 (float64 stays what it is).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from selmix.data.arrays import CELLS, give_back

_SCATTERED = 128  # rows of a map that are read before pages are given back; around each the kernel maps up to 2 MB
_COPIED = 1 << 26  # numbers that may be copied to lie in one piece, which is read faster
_FEW = 4  # parts that are searched one by one, which is faster than sorting for them


class MappedRows:
    """Rows on a memory map, of which a bounded part is resident: pages that were read are given back to the kernel."""

    device = torch.device("cpu")
    dtype = torch.float32  # what rows are read as

    def __init__(self, array: np.memmap) -> None:
        """Take the map [n, d] of float16 or float32."""
        self._array, self._tensor = array, torch.from_numpy(array)
        self.shape: tuple[int, int] = array.shape

    def __len__(self) -> int:
        return len(self._array)

    def take(self, positions: torch.Tensor) -> torch.Tensor:
        """Return a copy of the rows at `positions`, int64 [m]."""
        rows = torch.empty(len(positions), self.shape[1], dtype=self.dtype)
        for block, own in zip(rows.split(_SCATTERED), positions.split(_SCATTERED), strict=True):
            block[:] = self._tensor.index_select(0, own)
            give_back(self._array)
        return rows

    def split(self, height: int) -> Iterator[torch.Tensor]:
        """Yield all rows as they are stored, so many at a time."""
        for block in self._tensor.split(height):
            yield block
            give_back(self._array)


@dataclass(frozen=True)
class StackedRows:
    """Rows of several arrays, one array after another, without a copy.

    Attributes:
        parts: each [n_p, d], on one device; what is stacked itself is taken apart.
    """

    parts: Sequence["Rows"]

    def __post_init__(self) -> None:
        """Flatten."""
        flat = [own for part in self.parts for own in (part.parts if isinstance(part, StackedRows) else [part])]
        object.__setattr__(self, "parts", flat)

    @cached_property
    def ends(self) -> torch.Tensor:
        """Return where each part ends, int64 [p]."""
        return torch.tensor([len(part) for part in self.parts], device=self.device).cumsum(0)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return int(self.ends[-1]), self.parts[0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Return what rows are read as."""
        return read_dtype(self.parts[0])

    @property
    def device(self) -> torch.device:
        """Return that of the parts."""
        return self.parts[0].device

    def __len__(self) -> int:
        return self.shape[0]


@dataclass(frozen=True)
class PickedRows:
    """Some rows of others, in an order of their own, without a copy.

    Attributes:
        base: [n, d].
        positions: int64 [m], rows of the base.
    """

    base: torch.Tensor | MappedRows | StackedRows
    positions: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Return (m, d)."""
        return len(self.positions), self.base.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Return what rows are read as."""
        return read_dtype(self.base)

    @property
    def device(self) -> torch.device:
        """Return that of the base."""
        return self.base.device

    def __len__(self) -> int:
        return len(self.positions)


Rows = torch.Tensor | MappedRows | StackedRows | PickedRows


def read_dtype(features: Rows) -> torch.dtype:
    """Return what rows are read as: float32, float64 if they are float64."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def pick(features: Rows, positions: torch.Tensor) -> Rows:
    """Return the rows at `positions`, int64 [m]: a copy if it is small and of one tensor, else by reference."""
    if isinstance(features, torch.Tensor) and len(positions) * features.shape[1] <= _COPIED:
        return features[positions]
    if isinstance(features, PickedRows):
        return PickedRows(features.base, features.positions[positions])
    return PickedRows(features, positions)


def gather(features: Rows, positions: torch.Tensor) -> torch.Tensor:
    """Return the rows [..., d] at `positions`, int64 of any shape; nothing else is read."""
    flat = positions.flatten()
    if isinstance(features, MappedRows):
        rows = features.take(flat)
    elif isinstance(features, torch.Tensor):
        rows = features.index_select(0, flat).to(read_dtype(features))  # several times faster than an index
    elif isinstance(features, PickedRows):
        rows = gather(features.base, features.positions.index_select(0, flat))
    else:
        rows = torch.empty(len(flat), features.shape[1], dtype=features.dtype, device=features.device)
        for part, places, own in _by_part(features, flat):
            # no names for what is read: a block of memory that lives on costs page faults at every call
            rows[places] = gather(part, own)
    return rows.view(*positions.shape, features.shape[1])


def _by_part(stacked: StackedRows, positions: torch.Tensor) -> Iterator[tuple[Rows, torch.Tensor, torch.Tensor]]:
    """Yield each part that holds some of `positions` [m], where these stand among the m, and their rows in the part."""
    part_of = torch.bucketize(positions, stacked.ends[:-1], right=True)
    if len(stacked.parts) <= _FEW:
        places = [(part_of == number).nonzero()[:, 0] for number in range(len(stacked.parts))]
        hit = [(number, own) for number, own in enumerate(places) if len(own)]
    else:
        order = part_of.argsort()
        counts = torch.bincount(part_of, minlength=len(stacked.parts))
        numbers = counts.nonzero()[:, 0]
        hit = list(zip(numbers.tolist(), order.split(counts[numbers].tolist()), strict=True))
    for number, own in hit:
        part = stacked.parts[number]
        yield part, own, positions[own] - (stacked.ends[number] - len(part))


def row_blocks(features: Rows, positions: torch.Tensor | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield features [n, d] in blocks of rows, each with its place; or the rows at `positions`, int64 [m], likewise."""
    height, start = max(1, CELLS // features.shape[1]), 0
    if isinstance(features, PickedRows) and positions is None:
        yield from row_blocks(features.base, features.positions)
    elif positions is not None:
        for own in positions.split(height) if len(positions) else ():
            yield slice(start, start + len(own)), gather(features, own)
            start += len(own)
    elif isinstance(features, torch.Tensor | MappedRows):
        for rows in features.split(height) if len(features) else ():
            yield slice(start, start + len(rows)), rows.to(read_dtype(features))
            start += len(rows)
    elif isinstance(features, StackedRows):
        for part in features.parts:
            for block, rows in row_blocks(part):
                yield slice(start + block.start, start + block.stop), rows
            start += len(part)


def dense(features: Rows) -> torch.Tensor:
    """Return all rows [n, d] in memory; a tensor that is read as it is stored is not copied."""
    if isinstance(features, torch.Tensor):
        return features.to(read_dtype(features))
    rows = torch.empty(*features.shape, dtype=features.dtype, device=features.device)
    for block, own in row_blocks(features):
        rows[block] = own
    return rows
