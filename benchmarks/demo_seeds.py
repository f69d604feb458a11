"""The demo over metrics and seeds: test metric of the shipped head, the class-balanced head and the tuned one.

    python benchmarks/demo_seeds.py [--seeds 5]

Features are extracted once. The seeds vary stage two alone (balanced head, pairs); backbone and splits are those that
ship. Prints a Markdown table: mean and standard deviation over seeds, in %, on the 10,000 test images.
"""

import argparse
import statistics

import torch

from selmix.extraction import features_of_images
from selmix.metrics import METRICS
from selmix.pipeline import tune
from selmix.stage2.settings import RefineSettings


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    data = features_of_images("shipped:fashion_resnet32", "shipped:fashion_mnist_lt", device=torch.device("cpu"))
    print("| metric | shipped head | class-balanced head | SelMix | seconds |")
    print("|---|---|---|---|---|")
    for metric in METRICS.values():
        tunings = [tune(data, metric, RefineSettings(), seed=seed) for seed in seeds]
        cells = []
        for head in ("before", "balanced", "after"):
            values = [100 * (tuning.evaluations["test"][head].metrics[metric.name] or 0.0) for tuning in tunings]
            cells.append(f"{statistics.mean(values):.1f} +- {statistics.stdev(values):.1f}")
        cells.append(f"{statistics.mean(tuning.seconds['tune'] for tuning in tunings):.2f}")
        print(f"| {metric.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
