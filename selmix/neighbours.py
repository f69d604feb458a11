"""Nearest neighbours: exact, or nearly so and faster, with faiss; exact by blocks of PyTorch where it cannot be had.

Three kinds of search:

- "flat" compares a query with every row.
- "shortlist" compares it with every row along the leading directions of the bank alone, and then exactly with the few
  that come out best. For rows x, y of the bank with second moments w_1 >= w_2 >= ... along its principal directions,
  what x.y misses without the directions after r has root mean square sqrt(w_{r+1}^2 + w_{r+2}^2 + ...); r is the
  least that keeps this under a bound. Where the moments do not fall off, r is large and the search is flat.
- "lists" sorts the rows into lists of like ones and looks into a few: a part of a query's neighbourhood is missed,
  but not a row that is almost the same.

docs/scaling.md has what they cost and find. A graph (HNSW) is slower than a shortlist for the same recall, and may
differ from run to run if it is built by several threads.
"""

import sys
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch

from selmix.features.rows import Rows, row_blocks

Kind = Literal["flat", "shortlist", "lists"]

_MANY_PRODUCTS = 10**12  # of single numbers: about 20 s of one core
_CELLS = 1 << 24  # similarities in memory at a time, without faiss
_LEARNT_FROM = 20_000  # rows that tell the leading directions
_MISSED = 0.01  # by a product without the other directions, root mean square; 1 is a row's mean square
_LISTED = 4  # candidates for each neighbour
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


def search_kind(rows: int, queries: int, width: int) -> Kind:
    """Return the kind of search for neighbours of `queries` among `rows`, each of `width` numbers.

    Exact unless that takes more than 10^12 products, about 20 s of one core.
    """
    return "flat" if rows * queries * width <= _MANY_PRODUCTS or faiss_or_none() is None else "shortlist"


class NeighbourIndex:
    """A bank of rows to search in.

    Rows and queries that are not finite are nobody's neighbour and have none.
    """

    def __init__(self, bank: torch.Tensor, *, euclidean: bool = False, kind: Kind = "flat") -> None:
        """Prepare the search.

        Args:
            bank: float32 [n, d].
            euclidean: search the smallest Euclidean distance instead of the largest inner product.
            kind: of search, as above; flat without faiss and where the other kind cannot be faster.
        """
        finite = bank.isfinite().all(1)
        self._kept = None if bool(finite.all()) else finite.nonzero()[:, 0]
        own = bank.contiguous() if self._kept is None else bank[self._kept]
        self._count, self._euclidean = len(own), euclidean
        faiss = faiss_or_none()
        self._bank = own if faiss is None else None  # faiss has a copy
        self._index: Any = None
        if faiss is None:
            return
        metric = faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT
        if kind == "shortlist":
            self._index = _shortlist(faiss, own, metric)
        elif kind == "lists":
            self._index = _lists(faiss, own, metric)
        if self._index is None:
            self._index = faiss.IndexFlat(own.shape[1], metric)
        self._index.add(own.numpy())

    def search(self, queries: Rows, count: int, *, own: torch.Tensor | None = None) -> Neighbours:
        """Return the nearest `count` rows of every query; queries are read in blocks.

        Args:
            queries: [m, d].
            count: neighbours; where it exceeds what there is, the rest is -1.
            own: int64 [m], the position of each query in the bank, which is no neighbour of itself; -1 if it has none.
        """
        positions = torch.full((len(queries), count), -1)
        values = torch.full((len(queries), count), float("inf" if self._euclidean else "-inf"))
        for block, rows in row_blocks(queries):
            found = self._block(rows.float(), count, None if own is None else own[block])
            positions[block], values[block] = found
        return Neighbours(positions, values)

    def _block(self, queries: torch.Tensor, count: int, own: torch.Tensor | None) -> Neighbours:
        asked = count + (own is not None)
        nothing = float("inf" if self._euclidean else "-inf")
        known = queries.isfinite().all(1)
        positions = torch.full((len(queries), asked), -1)
        values = torch.full((len(queries), asked), nothing)
        if self._count and bool(known.any()):
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
        if self._bank is None:
            values, positions = self._index.search(queries.numpy(), count)
            return Neighbours(torch.from_numpy(positions), torch.from_numpy(values))
        count = min(count, self._count)
        best = []
        for block in queries.split(max(1, _CELLS // self._count)):
            all_values = torch.cdist(block, self._bank).square() if self._euclidean else block @ self._bank.T
            best.append(all_values.topk(count, largest=not self._euclidean))
        return Neighbours(torch.cat([each.indices for each in best]), torch.cat([each.values for each in best]))


def _shortlist(faiss: ModuleType, bank: torch.Tensor, metric: int) -> Any:
    """Return an index that judges rows along the leading directions first; None if these are more than half of all."""
    directions = _leading_directions(bank)
    few, width = directions.shape
    if 2 * few > width:
        return None
    turn = faiss.LinearTransform(width, few, False)
    faiss.copy_array_to_vector(directions.flatten().numpy(), turn.A)
    turn.is_trained = True
    index = faiss.IndexRefineFlat(faiss.IndexPreTransform(turn, faiss.IndexFlat(few, metric)))
    index.k_factor = _LISTED
    return index


def _leading_directions(bank: torch.Tensor) -> torch.Tensor:
    """Return float32 [r, d], orthonormal: those without which a product of rows misses little."""
    rows = bank[_spread(len(bank), _LEARNT_FROM)]
    moments = torch.zeros(bank.shape[1], bank.shape[1], dtype=torch.float64)
    for _, block in row_blocks(rows):
        moments += block.double().T @ block.double()
    along, directions = torch.linalg.eigh(moments)  # ascending
    missed = along.clamp(min=0).square().cumsum(0).sqrt()
    spared = min(int((missed <= _MISSED * along.sum()).sum()), len(along) - 1)
    return directions[:, spared:].flip(1).T.float().contiguous()


def _lists(faiss: ModuleType, bank: torch.Tensor, metric: int) -> Any:
    """Return an index of about 4 sqrt(n) lists; None if there are too few rows for one."""
    if len(bank) < _ROWS_A_LIST:
        return None
    cells = min(int(4 * len(bank) ** 0.5), len(bank) // _ROWS_A_LIST)
    index = faiss.IndexIVFFlat(faiss.IndexFlat(bank.shape[1], metric), bank.shape[1], cells, metric)
    index.nprobe = max(8, round(_LISTS_VISITED * cells))
    index.train(bank[_spread(len(bank), _ROWS_A_LIST * cells)].numpy())
    return index


def _spread(count: int, wanted: int) -> torch.Tensor:
    return torch.linspace(0, count - 1, min(count, wanted)).long()
