"""Ranks as threads of one process: fast, any number of them, and out of step means an error instead of a hang."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.ranks import Ranks


class Board:
    """Where threads leave what the others must know."""

    def __init__(self, count: int):
        self.barrier = threading.Barrier(count, timeout=60)
        self.slots: list[Any] = [None] * count


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """What `Ranks` promises, among threads."""

    board: Board = field(default=None, compare=False)

    def _exchange(self, what: str, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.board.slots[self.rank] = (what, tensor.clone())
        self.board.barrier.wait()
        said = list(self.board.slots)
        self.board.barrier.wait()
        assert {own for own, _ in said} == {what}, f"out of step: {said}"
        return [own for _, own in said]

    def total(self, tensor):
        return sum(self._exchange(f"total {tuple(tensor.shape)} {tensor.dtype}", tensor))

    def gathered(self, tensor):
        return torch.cat(self._exchange(f"gathered {tuple(tensor.shape[1:])} {tensor.dtype}", tensor))

    def first(self, tensor):
        return self._exchange(f"first {tuple(tensor.shape)} {tensor.dtype}", tensor)[0].clone()

    def wait(self):
        self.board.barrier.wait()


def in_ranks(count: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Return what `work` returns or raises on each of `count` ranks; a thread that fails alone ends the others."""
    board, results = Board(count), [None] * count

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, count, board))
        except Exception as error:
            results[rank] = error
            board.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in results:  # the cause, not those that waited for it
        if isinstance(error, Exception) and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return results


def errors_in_ranks(count: int, work: Callable[[Ranks], Any]) -> list[Exception | None]:
    """Return the error that `work` raises on each rank, None where it raises none; none may wait for ever."""

    def caught(ranks: Ranks) -> list[Exception | None]:
        try:
            work(ranks)
        except ValueError as error:
            return [error]
        return [None]

    return [error for (error,) in in_ranks(count, caught)]


def shards(data: FeatureData, sizes: dict[str, list[int]]) -> Callable[[Ranks], FeatureData]:
    """Return the contiguous part of each rank, of so many samples of each split."""

    def own(ranks: Ranks) -> FeatureData:
        parts: dict[str, LabeledFeatures] = {}
        ids = {}
        for name, split in data.splits.items():
            start = sum(sizes[name][: ranks.rank])
            assert sum(sizes[name]) == len(split.labels)
            positions = torch.arange(start, start + sizes[name][ranks.rank])
            parts[name], ids[name] = split.subset(positions), [data.ids[name][place] for place in positions]
        return replace(data, splits=parts, ids=ids, ranks=ranks)

    return own
