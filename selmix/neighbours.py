"""Nearest neighbours: exact or by inverted lists with faiss, exact by blocks of PyTorch where faiss cannot be had."""

import logging
import sys
from types import ModuleType
from typing import NamedTuple

import torch

logger = logging.getLogger("selmix")

_CELLS = 1 << 24  # similarities in memory at a time, without faiss
_ROWS_A_LIST = 64  # that faiss learns the lists from
_LISTS_VISITED = 1 / 64  # share that a query looks into


class Neighbours(NamedTuple):
    """What a search found, best first.

    Attributes:
        positions: int64 [m, count], in the bank; -1 where there is none.
        values: float32 [m, count], inner products, or squared distances; -inf, or inf, where there is none.
    """

    positions: torch.Tensor
    values: torch.Tensor


def faiss_or_none() -> ModuleType | None:
    """Return faiss; None where it is missing, and on macOS, where its OpenMP clashes with PyTorch's."""
    if sys.platform == "darwin":
        return None
    try:
        import faiss
    except ImportError:
        return None
    return faiss


class NeighbourIndex:
    """A bank of rows to search in.

    Rows and queries that are not finite are nobody's neighbour and have none.
    """

    def __init__(self, bank: torch.Tensor, *, euclidean: bool = False, lists: bool = False) -> None:
        """Prepare the search.

        Args:
            bank: float32 [n, d].
            euclidean: search the smallest Euclidean distance instead of the largest inner product.
            lists: sort the rows into about 4 sqrt(n) lists and look into some of them, not at all rows; faiss only.
        """
        finite = bank.isfinite().all(1)
        self._kept = None if bool(finite.all()) else finite.nonzero()[:, 0]
        self._bank = bank.contiguous() if self._kept is None else bank[self._kept]
        self._euclidean = euclidean
        faiss = faiss_or_none()
        self._index = None
        if faiss is None:
            return
        width, count = bank.shape[1], len(self._bank)
        metric = faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT
        flat = faiss.IndexFlat(width, metric)
        if lists and count >= _ROWS_A_LIST:
            cells = min(int(4 * count**0.5), count // _ROWS_A_LIST)
            self._index = faiss.IndexIVFFlat(flat, width, cells, metric)
            self._quantizer = flat  # faiss holds no reference of its own
            self._index.nprobe = max(8, round(_LISTS_VISITED * cells))
            learnt_from = torch.linspace(0, count - 1, min(count, _ROWS_A_LIST * cells)).long()
            self._index.train(self._bank[learnt_from].numpy())
        else:
            self._index = flat
        self._index.add(self._bank.numpy())

    def search(self, queries: torch.Tensor, count: int, *, own: torch.Tensor | None = None) -> Neighbours:
        """Return the nearest `count` rows of every query.

        Args:
            queries: float32 [m, d].
            count: neighbours; where it exceeds what there is, the rest is -1.
            own: int64 [m], the position of each query in the bank, which is no neighbour of itself; -1 if it has none.
        """
        asked = count + (own is not None)
        nothing = float("inf" if self._euclidean else "-inf")
        known = queries.isfinite().all(1)
        positions = torch.full((len(queries), asked), -1)
        values = torch.full((len(queries), asked), nothing)
        if len(self._bank) and bool(known.any()):
            found = self._found(queries[known].contiguous(), asked)
            positions[known, : found.positions.shape[1]] = found.positions
            values[known, : found.positions.shape[1]] = found.values
        values[positions < 0] = nothing
        if self._kept is not None:
            positions = torch.where(positions < 0, positions, self._kept[positions.clamp(min=0)])
        if own is not None:
            # the query itself by its number, never by column: a twin may stand before it
            others = (positions != own[:, None]).int().argsort(dim=1, descending=True, stable=True)[:, :count]
            positions, values = positions.gather(1, others), values.gather(1, others)
        return Neighbours(positions, values)

    def _found(self, queries: torch.Tensor, count: int) -> Neighbours:
        if self._index is not None:
            values, positions = self._index.search(queries.numpy(), count)
            return Neighbours(torch.from_numpy(positions), torch.from_numpy(values))
        count = min(count, len(self._bank))
        best = []
        for block in queries.split(max(1, _CELLS // len(self._bank))):
            all_values = torch.cdist(block, self._bank).square() if self._euclidean else block @ self._bank.T
            best.append(all_values.topk(count, largest=not self._euclidean))
        return Neighbours(torch.cat([each.indices for each in best]), torch.cat([each.values for each in best]))
