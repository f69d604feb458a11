"""Votes of neighbours for a large pool: time, memory and recall of each kind of search; docs/scaling.md reads them.

    python benchmarks/pseudo_labels.py [--labeled 100000] [--pool 1000000] [--width 384] [--out docs/pseudo_labels]

Writes OUT.json. Features are synthetic: 100 classes, long-tailed among the labeled and equal in the pool, whose second
moments fall off as 1 / j along their directions, much as those of networks do. The searches take turns on a part of the
pool; then each kind has a process of its own, for its memory, in which the automatic one does the whole pool.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from measure import machine

from selmix.features.rows import row_blocks
from selmix.neighbours import Neighbours, faiss_or_none, search_kind
from selmix.pseudo.voting import NeighbourVotes, VoteSettings, VotingBank

CLASSES, IMBALANCE, FOLDS = 100, 100, 5
SPREAD = 1.8  # of a class, over that of the class means: about 80 % of the votes are right
PART, REPEATS = 4000, 3
VOTE = VoteSettings()
# kind, and the share of the lists, or the rows of the graph, that a query visits
SEARCHES = [("flat", 1), ("shortlist", 1), ("lists", 1 / 64), ("lists", 1 / 16), ("graph", 80), ("graph", 160)]


class Graph:
    """HNSW, which the package does without: 32 edges a row."""

    def __init__(self, bank: torch.Tensor) -> None:
        """Build it, with a queue of 80."""
        faiss = faiss_or_none()
        self.index = faiss.IndexHNSWFlat(bank.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 80
        self.index.add(bank.numpy())

    def search(self, queries: torch.Tensor, count: int, *, own: None = None) -> Neighbours:
        """Return the nearest rows, as `NeighbourIndex.search` does."""
        values, positions = self.index.search(queries.numpy(), count)
        return Neighbours(torch.from_numpy(positions), torch.from_numpy(values))


def write_case(folder: Path, labeled: int, pool: int, width: int) -> None:
    """Write features and labels of the bank and of the pool."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(1, width + 1).float().rsqrt()
    means = torch.randn(CLASSES, width, generator=generator) * spread
    long_tail = IMBALANCE ** -torch.linspace(0, 1, CLASSES)
    for name, count, prior in (("bank", labeled, long_tail), ("pool", pool, torch.ones(CLASSES))):
        labels = torch.multinomial(prior, count, True, generator=generator)
        np.save(folder / f"{name}.npy", labels.numpy())
        rows = torch.from_numpy(np.memmap(folder / name, np.float32, "w+", shape=(count, width)))
        for block, own in row_blocks(rows):
            noise = torch.randn(own.shape, generator=generator)
            own.copy_(means[labels[block]] + SPREAD * spread * noise)


def read(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features, on a memory map, and labels."""
    labels = torch.from_numpy(np.load(folder / f"{name}.npy"))
    return torch.from_numpy(np.memmap(folder / name, np.float32, "c").reshape(len(labels), -1)), labels


def bank_of(folder: Path, kind: str) -> VotingBank:
    """Return the labeled samples with a kind of search."""
    features, labels = read(folder, "bank")
    folds = torch.arange(len(labels)) % FOLDS
    bank = VotingBank(features, labels, CLASSES, folds=folds, kind="flat" if kind == "graph" else kind)
    if kind == "graph":
        bank._index = None  # makes room
        bank._index = Graph(bank.space.encode(features))
    return bank


def search(bank: VotingBank, kind: str, visited: float, queries: torch.Tensor) -> NeighbourVotes:
    """Return the neighbours of queries."""
    if kind == "lists":
        lists = bank._index._index
        lists.nprobe = max(1, round(visited * lists.nlist))
    if kind == "graph":
        bank._index.index.hnsw.efSearch = visited
    return bank.search(queries, VOTE)


def voted(votes: NeighbourVotes) -> torch.Tensor:
    """Return the class with the most votes under a uniform prior, int64 [m]."""
    prior = torch.full((CLASSES,), 1 / CLASSES, dtype=torch.float64)
    blocks = [slice(start, start + PART) for start in range(0, len(votes), PART)]
    return torch.cat([votes.probabilities(prior, rows=rows).argmax(1) for rows in blocks])


def side_by_side(folder: Path) -> list[dict]:
    """Return processor time, recall and agreement with the exact votes of every search, on a part of the pool."""
    pool, truth = read(folder, "pool")
    part, truth = pool[:PART].clone(), truth[:PART]
    banks = {kind: bank_of(folder, kind) for kind in dict(SEARCHES)}
    works = [partial(search, banks[kind], kind, visited, part) for kind, visited in SEARCHES]
    seconds = [statistics.median(times) for times in zip(*(_turn(works) for _ in range(REPEATS)), strict=True)]
    exact, rows = works[0](), []
    nearest = exact.positions[:, : VOTE.count, None]
    for (kind, visited), spent, work in zip(SEARCHES, seconds, works, strict=True):
        votes = work()
        recall = (nearest == votes.positions[:, None, : VOTE.count]).any(2).float().mean()
        labels = voted(votes)
        rows.append({
            "kind": kind, "visited": visited, "queries": len(part), "processor_ms_a_query": 1e3 * spent / len(part),
            "faster_than_flat": seconds[0] / spent, "recall": float(recall), "right": _share(labels == truth),
            "agree": _share(labels == voted(exact)),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _turn(works: list[Callable[[], object]]) -> list[float]:
    """Return the seconds that the processor worked for each: other work on it does not count."""
    clock, times = Clock(), []
    for work in works:
        work()
        times.append(clock.split()["processor_s"])
    return times


def alone(folder: Path, kind: str, queries: int, send: Connection) -> None:
    """Build the bank, search and vote, and send what that took."""
    pool, truth = read(folder, "pool")
    peak, clock = Peak(), Clock()
    bank = bank_of(folder, kind)
    built = clock.split()
    votes = bank.search(pool[:queries], VOTE)
    searched = clock.split()
    labels = voted(votes)
    row = {"kind": kind, "queries": len(votes), "build": built, "search": searched, "vote": clock.split()}
    send.send(row | {"peak_gb": peak.stop(), "right": _share(labels == truth[: len(votes)])})


def in_a_process(folder: Path, kind: str, queries: int) -> dict:
    """Return what it took in a process of its own."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=alone, args=(folder, kind, queries, send))
    process.start()
    send.close()
    row = receive.recv()
    process.join()
    print(json.dumps(row), flush=True)
    return row


class Clock:
    """Seconds, and those that the processor worked for this process, from one call to the next."""

    def __init__(self) -> None:
        """Start."""
        self.last = self._now()

    def _now(self) -> dict[str, float]:
        return {"s": time.perf_counter(), "processor_s": time.process_time()}

    def split(self) -> dict[str, float]:
        """Return what has passed."""
        before, self.last = self.last, self._now()
        return {name: self.last[name] - before[name] for name in before}


class Peak(threading.Thread):
    """The most memory of the process beyond what it had at first, pages of files left out, in GB."""

    def __init__(self) -> None:
        """Start to look, every 5 ms."""
        super().__init__(daemon=True)
        self.first = self.most = self._now()
        self._over = threading.Event()
        self.start()

    def _now(self) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e6

    def run(self) -> None:
        """Look."""
        while not self._over.wait(0.005):
            self.most = max(self.most, self._now())

    def stop(self) -> float:
        """Return what was added at most."""
        self._over.set()
        return self.most - self.first


def _share(hits: torch.Tensor) -> float:
    return float(hits.float().mean())


def main() -> None:
    """Measure, then write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labeled", type=int, default=100_000)
    parser.add_argument("--pool", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--out", type=Path, default=Path("docs/pseudo_labels"))
    options = parser.parse_args()
    size = options.labeled, options.pool, options.width
    measured = {"machine": machine(), "size": size, "automatic": search_kind(*size)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(folder, *size)
        measured["side_by_side"] = side_by_side(folder)
        measured["alone"] = [in_a_process(folder, kind, PART) for kind in dict(SEARCHES)]
        measured["whole_pool"] = in_a_process(folder, measured["automatic"], options.pool)
    options.out.with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
