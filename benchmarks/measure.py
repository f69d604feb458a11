"""What the benchmarks share: repeated measurements, side by side, and what they were taken on."""

import os
import platform
import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(*works: Callable[[], object], repeats: int = 7) -> list[float]:
    """Return the median time of each work after one warm-up; the works take turns, so that load hits them alike."""
    for work in works:
        work()
    return [statistics.median(times) for times in zip(*(_round(works) for _ in range(repeats)), strict=True)]


def _round(works: tuple[Callable[[], object], ...]) -> list[float]:
    times = []
    for work in works:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times


def machine() -> dict[str, object]:
    """Return what a figure depends on; `load` is the run queue of the last minute, our own threads included."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "architecture": platform.machine(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }
