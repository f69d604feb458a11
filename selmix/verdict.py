"""What a comparison says: means and spreads over seeds, and whether SelMix is the best of the methods."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from selmix.bootstrap import percentile_interval, resampled_counts
from selmix.confusion import joint_confusion
from selmix.metrics import Metric
from selmix.seeding import torch_generator

OURS = "selmix"
REPLICATES = 1000


@dataclass(frozen=True)
class Scores:
    """What the ladder measured.

    Attributes:
        rows: one for each method, metric and seed: `method`, `metric`, `seed`, `val`, `test`, `seconds`.
        predictions: (method, metric, seed) -> predictions of the test split, int64 [n].
        labels: of the test split, int64 [n].
        num_classes: k.
    """

    rows: list[dict[str, Any]]
    predictions: dict[tuple[str, str, int], torch.Tensor]
    labels: torch.Tensor
    num_classes: int


def summarise(scores: Scores, metric: Metric, names: list[str], seeds: list[int]) -> dict[str, Any]:
    """Return what the seeds say about one metric.

    Returns:
        `methods`: mean and std over seeds (null for one seed) of each method on val and test, its mean seconds, and on
        test a 95 % interval of the mean over seeds, of samples resampled within each class.
        `best`: the name of the best by its test mean. Where SelMix and another method ran, `best_other`, and
        `difference`: SelMix's test mean minus that method's, and a 95 % interval: test samples are resampled within
        each class, the same ones for both methods and all seeds, and the differences of the seeds are averaged. The
        interval says nothing of the spread over seeds. The best other method is chosen on the test split itself, which
        favours it. `verdict`: all that in one sentence.
    """
    methods = {name: _over_seeds(scores, metric, name) for name in names}
    for name, interval in zip(names, _each_interval(scores, metric, names, seeds), strict=True):
        methods[name]["test"]["interval"] = interval
    best = max(names, key=lambda name: methods[name]["test"]["mean"])
    summary: dict[str, Any] = {"methods": methods, "best": best}
    others = [name for name in names if name != OURS]
    if OURS not in names or not others:
        return summary | {"verdict": f"{metric.name}: the best is {best}; {_missing(names)}"}
    rival = max(others, key=lambda name: methods[name]["test"]["mean"])
    difference = methods[OURS]["test"]["mean"] - methods[rival]["test"]["mean"]
    interval = _interval(scores, metric, rival, seeds)
    return summary | {
        "best_other": rival,
        "difference": {"mean": difference, "interval": interval},
        "verdict": _verdict(metric.name, methods, rival, difference, interval),
    }


def _over_seeds(scores: Scores, metric: Metric, name: str) -> dict[str, dict[str, Any]]:
    rows = [row for row in scores.rows if (row["method"], row["metric"]) == (name, metric.name)]
    values = {split: np.array([row[split] for row in rows]) for split in ("val", "test")}
    figures: dict[str, dict[str, Any]] = {
        split: {"mean": float(value.mean()), "std": float(value.std(ddof=1)) if len(value) > 1 else None}
        for split, value in values.items()
    }
    return figures | {"seconds": {"mean": float(np.mean([row["seconds"] for row in rows]))}}


def _interval(scores: Scores, metric: Metric, rival: str, seeds: list[int]) -> list[float]:
    """Return the 95 % interval of SelMix's mean over seeds minus the rival's, on the same resampled test samples."""
    predictions = [scores.predictions[name, metric.name, seed] for name in (OURS, rival) for seed in seeds]
    replicates = resampled_counts(
        scores.labels,
        predictions,
        scores.num_classes,
        replicates=REPLICATES,
        generator=torch_generator(0, "compare"),
    )
    values = np.array([[float(metric(joint_confusion(counts))) for counts in heads] for heads in replicates])
    return percentile_interval(values[:, : len(seeds)].mean(1) - values[:, len(seeds) :].mean(1))


def _each_interval(scores: Scores, metric: Metric, names: list[str], seeds: list[int]) -> list[list[float]]:
    """Return the 95 % interval of each method's mean over seeds."""
    predictions = [scores.predictions[name, metric.name, seed] for name in names for seed in seeds]
    replicates = resampled_counts(
        scores.labels,
        predictions,
        scores.num_classes,
        replicates=REPLICATES // 5,  # for pictures
        generator=torch_generator(0, "compare/each"),
    )
    values = np.array([[float(metric(joint_confusion(counts))) for counts in heads] for heads in replicates])
    return [percentile_interval(own) for own in values.reshape(len(values), len(names), len(seeds)).mean(2).T]


def _verdict(name: str, methods: dict[str, Any], rival: str, difference: float, interval: list[float]) -> str:
    ours, theirs = (f"{100 * methods[method]['test']['mean']:.1f}" for method in (OURS, rival))
    low, high = (f"{100 * bound:+.1f}" for bound in interval)
    figures = f"{ours} against {theirs} of {rival}, {100 * difference:+.1f} points (95 % interval {low} .. {high})"
    if difference > 0:
        doubt = "" if interval[0] > 0 else ", but the test samples do not tell the two apart"
        return f"{name}: SelMix is the best of {len(methods)} methods, {figures}{doubt}"
    doubt = "" if interval[1] < 0 else "; the test samples do not tell the two apart"
    return f"{name}: SelMix is NOT the best, {figures}{doubt}"


def _missing(names: list[str]) -> str:
    return "SelMix ran alone" if names == [OURS] else "SelMix did not run"
