"""Predicted gains beside measured changes on what ships: docs/figures/diagnose.svg and its table.

    python benchmarks/diagnose_figure.py [--seeds 3] [--out docs/figures/diagnose.svg]

Heads: the one that came with the backbone, the balanced one that tuning starts from, and the tuned one. The figure
shows the first seed, the table means and standard deviations over seeds.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from selmix.extraction import features_of_images
from selmix.figures import Panel, draw_scatters
from selmix.metrics import METRICS
from selmix.pipeline import tune
from selmix.recipe import ExtractRecipe
from selmix.stage2.diagnose import Diagnosis, agreement
from selmix.stage2.settings import RefineSettings

HEADS = ("given", "balanced", "tuned")
KINDS = ("soft", "hard")


def main() -> None:
    """Draw the figure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/diagnose.svg"))
    words = parser.parse_args()
    data = features_of_images(
        ExtractRecipe(backbone="shipped:fashion_resnet32", data="shipped:fashion_mnist_lt", dtype="float32"),
        device=torch.device("cpu"),
    )
    grid = []
    print("| metric | head | gains, largest | soft: r | ranks | sign | slope | hard: r | ranks | sign | slope |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in ("min_recall", "mean_recall"):
        seeds = []
        for seed in range(words.seeds):
            # a short run from the given head serves for its start alone
            short = replace(RefineSettings(), start="given", steps=50)
            given = tune(data, METRICS[name], short, seed=seed, diagnosed=True).diagnoses["start"]
            whole = replace(RefineSettings(), start="balanced")
            own = tune(data, METRICS[name], whole, seed=seed, diagnosed=True).diagnoses
            seeds.append({"given": given, "balanced": own["start"], "tuned": own["tuned"]})
        for head in HEADS:
            print(f"| {name} | {head} | {' | '.join(_cells([own[head] for own in seeds]))} |")
        grid.append(
            [
                Panel(f"{name}, {head} head, {kind}", own.predicted.tolist(), own.measured[kind].tolist())
                for head in HEADS[:2]
                for kind in KINDS
                for own in [seeds[0][head]]
            ]
        )
    words.out.parent.mkdir(parents=True, exist_ok=True)
    draw_scatters(grid, words.out)


def _cells(diagnoses: list[Diagnosis]) -> list[str]:
    """Return, over seeds, the largest gain, and for soft and hard Pearson, Spearman, signs and the slope through 0."""
    columns = [[float(own.predicted.amax()) for own in diagnoses]]
    for kind in KINDS:
        found = [agreement(own.predicted, own.measured[kind]) for own in diagnoses]
        columns += [[own[key] or 0.0 for own in found] for key in ("pearson", "spearman", "sign_agreement")]
        columns.append([float(own.predicted @ own.measured[kind] / own.predicted.square().sum()) for own in diagnoses])
    digits = [3] + 8 * [2]
    return [
        f"{statistics.mean(values):.{places}f} ± {statistics.stdev(values):.{places}f}"
        for values, places in zip(columns, digits, strict=True)
    ]


if __name__ == "__main__":
    main()
