"""Features too large for memory: read in blocks of rows, and gathered from several arrays as if from one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

CELLS = 1 << 20  # numbers in memory at a time


@dataclass(frozen=True)
class StackedRows:
    """Rows of several tensors, one tensor after another, without a copy; a tensor may lie on a memory map.

    Attributes:
        parts: each [n_p, d], of one dtype on one device.
    """

    parts: Sequence[torch.Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return sum(map(len, self.parts)), self.parts[0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Return that of the parts."""
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        """Return that of the parts."""
        return self.parts[0].device

    def __len__(self) -> int:
        return self.shape[0]


Rows = torch.Tensor | StackedRows


def gather(features: Rows, positions: torch.Tensor) -> torch.Tensor:
    """Return the rows [..., d] at `positions`, int64 of any shape; nothing else is read."""
    flat = positions.flatten()
    if isinstance(features, torch.Tensor):
        rows = features.index_select(0, flat)  # several times faster than an index
    else:
        rows = torch.empty(len(flat), features.shape[1], dtype=features.dtype, device=features.device)
        ends = torch.tensor([len(part) for part in features.parts], device=flat.device).cumsum(0)
        part_of = torch.bucketize(flat, ends[:-1], right=True)
        for number, part in enumerate(features.parts):
            own = (part_of == number).nonzero()[:, 0]
            rows[own] = part.index_select(0, flat[own] - (ends[number] - len(part)))
    return rows.view(*positions.shape, features.shape[1])


def row_blocks(features: Rows, positions: torch.Tensor | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield features [n, d] in blocks of rows, each with its place; or the rows at `positions`, int64 [m], likewise."""
    height, start = max(1, CELLS // features.shape[1]), 0
    if positions is not None:
        for own in positions.split(height):
            yield slice(start, start + len(own)), gather(features, own)
            start += len(own)
        return
    parts = [features] if isinstance(features, torch.Tensor) else features.parts
    for part in filter(len, parts):
        for rows in part.split(height):
            yield slice(start, start + len(rows)), rows
            start += len(rows)
