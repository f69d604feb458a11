"""How much of the tuning time goes into labeling a pool of unlabeled samples? At the scale of CIFAR-10-LT.

    python benchmarks/pool_speed.py [source]

Prints the seconds of the whole tuning and, of these, of: the graph of neighbours, labeling (with every refresh), the
heads that are tried on the pool; of processor time, on one thread, one run each after a warm-up.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from refine_speed import synthetic

from selmix.features.labeled import FeatureData, UnlabeledFeatures
from selmix.metrics import get_metric
from selmix.pipeline import tune
from selmix.pseudo.settings import PseudoSettings
from selmix.stage2 import pool_use
from selmix.stage2.pool_labels import PoolLabeler
from selmix.stage2.settings import RefineSettings

CLASSES, TRAIN, VAL, POOL = 10, 3700, 5000, 7400


def timed(owner: Any, name: str, spent: dict[str, list[float]]) -> Callable[[], None]:
    """Note how long each call of a function takes; return what ends that."""
    function = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        started = time.process_time()
        result = function(*args, **named)
        spent.setdefault(name, []).append(time.process_time() - started)
        return result

    setattr(owner, name, wrapped)
    return lambda: setattr(owner, name, function)


def measure(width: int, source: str) -> None:
    """Print the figures of features of a width."""
    splits = {name: synthetic(count, CLASSES, width, name=name) for name, count in (("train", TRAIN), ("val", VAL))}
    pool = UnlabeledFeatures(synthetic(POOL, CLASSES, width, name="pool").features)
    data = FeatureData([str(label) for label in range(CLASSES)], splits, {name: [] for name in splits}, unlabeled=pool)
    metric, pseudo = get_metric("min_recall"), PseudoSettings(source=source)
    pool_use.MARGIN = pool_use.WORTHWHILE = float("-inf")  # whether or not it helps
    tune(data, metric, RefineSettings(steps=50, start_steps=50), seed=0, pseudo=pseudo)
    spent: dict[str, list[float]] = {}
    undo = [timed(PoolLabeler, "__init__", spent), timed(PoolLabeler, "label", spent)]
    undo.append(timed(pool_use, "balanced_heads", spent))
    started = time.process_time()
    tuning = tune(data, metric, RefineSettings(), seed=0, pseudo=pseudo)
    total = time.process_time() - started
    for end in undo:
        end()
    neighbours, labeling, trial = (sum(spent[name]) for name in ("__init__", "label", "balanced_heads"))
    print(
        f"d = {width}: {total:.1f} s for {tuning.refined.steps} steps; graph {neighbours:.2f} s, "
        f"labeling {len(spent['label'])} times {labeling:.2f} s "
        f"(together {100 * (neighbours + labeling) / total:.0f} %), "
        f"trial heads {trial:.2f} s ({100 * trial / total:.0f} %)",
        flush=True,
    )


def main() -> None:
    """Measure narrow and wide features."""
    torch.set_num_threads(1)
    for width in (64, 1280):
        measure(width, sys.argv[1] if len(sys.argv) > 1 else "auto")


if __name__ == "__main__":
    main()
