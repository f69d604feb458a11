"""How long a sweep takes: six metrics, one seed, on features of the shape of CIFAR-10-LT with 64 dimensions.

Gaussian classes: 5,000 to 50 training samples, 500 a class for validation, 1,000 for test. Wall and CPU seconds of the
whole command in a process of its own, imports included; and of the six single runs that it stands for.

    python benchmarks/sweep.py [--single]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

METRICS = ["min_recall", "mean_recall", "harmonic_mean", "geometric_mean", "q_mean", "macro_f1"]


def write_features(path: Path) -> None:
    """Write the features file."""
    rng, classes = np.random.default_rng(0), np.arange(10)
    centres = 0.3 * rng.normal(size=(10, 64))
    arrays = {}
    for split, counts in {
        "train": (5000 * 0.01 ** (classes / 9)).astype(int),
        "val": np.full(10, 500),
        "test": np.full(10, 1000),
    }.items():
        labels = np.repeat(classes, counts)
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_features"] = (centres[labels] + rng.normal(size=(len(labels), 64))).astype(np.float32)
    np.savez(path, **arrays)


def timed(metric: str, folder: Path, out: str) -> tuple[float, float]:
    """Return wall and CPU seconds of `selmix finetune --metric METRIC`."""
    words = ["finetune", "--features", "features.npz", "--metric", metric, "--out", out, "--quiet"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "selmix", *words], cwd=folder, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--single", action="store_true", help="also measure the six single runs")
    single = parser.parse_args().single
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_features(folder / "features.npz")
        wall, cpu = timed(",".join(METRICS), folder, "sweep")
        busy = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        print(f"sweep of {len(METRICS)} metrics: {wall:.1f} s, {cpu:.1f} CPU s ({busy})")
        front = json.loads((folder / "sweep" / "sweep.json").read_text())["pareto"]["test"]
        print(f"on the front: {', '.join(front)}")
        if single:
            runs = [timed(metric, folder, metric) for metric in METRICS]
            print(f"single runs: {sum(run[0] for run in runs):.1f} s, {sum(run[1] for run in runs):.1f} CPU s")


if __name__ == "__main__":
    main()
