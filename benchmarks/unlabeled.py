"""What unlabeled images bring on frozen features, of what their true labels would: docs/semi-supervised.md.

    python benchmarks/unlabeled.py run --features NAME=FILE.npz ... [--vals 20,250] [--metrics mean_recall,min_recall]
        [--profiles consistent,uniform,reversed,ood] [--seeds 5] [--steps N] [--variants ablation] [--out ROWS.jsonl]
    python benchmarks/unlabeled.py table [--out ROWS.jsonl]

A feature file has the features [n, d] of all images of a data set, its `labels` int [n], `test_from` (the first row of
the test images; all rows before are there to be drawn), `ood` [m, d] (features of images of no class of the data set)
and, where the backbone was trained on some of the rows, `train_ids` int [t]: they are the labeled train split then.
Else that is drawn: 1500 images of the largest class, 15 of the smallest. Validation and pool are drawn, disjoint, from
the rows that are left: a pool of 3000 to 30 images a class in the order of train (`consistent`) or against it
(`reversed`), of 900 a class (`uniform`), or consistent with so many images of no class that they are 30 % (`ood`).
A seed draws them, and steers the tuning. Three tunings are compared on the test images, which steer nothing:

    none    without the pool
    pool    with the pool, unlabeled
    oracle  with the images of the pool as further train images, with their true labels (and none of no class)

A tuning is one line of ROWS.jsonl; those that are there are not run again. What does not depend on the pool (`none`),
or not on images of no class (`oracle`), is run once and serves for all.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from unlabeled_tables import print_tables

from selmix.confusion import confusion_counts
from selmix.data.longtail import disjoint_class_draws, exponential_counts
from selmix.data.semi import unlabeled_counts
from selmix.features.labeled import FeatureData, LabeledFeatures, UnlabeledFeatures
from selmix.metrics import MetricContext, parse_metric
from selmix.pipeline import Tuning, tune
from selmix.pseudo.settings import PseudoSettings
from selmix.stage2.pool_use import PoolUse
from selmix.stage2.settings import RefineSettings

TRAIN, POOL, UNIFORM, FACTOR, NO_CLASS = 1500, 3000, 900, 100, 0.3
PROFILES = ("consistent", "uniform", "reversed", "ood")
ABLATION: list[dict[str, Any]] = [
    {"source": "head"},
    {"source": "corrected"},
    {"source": "neighbours"},
    {"source": "propagation"},
    {"draws": "partner"},
    {"threshold": 0.0},
    {"threshold": 0.9},
    {"quota": 3.0},
    {"bound": 0.0},
    {"bound": 0.8},
    {"label_weight": 1},
    {"label_weight": 10},
]
KEY = ("features", "val", "metric", "seed", "steps", "what", "profile", "options")


@dataclass(frozen=True)
class Source:
    """A feature file: see the head of this module."""

    features: torch.Tensor
    labels: torch.Tensor
    test_from: int
    ood: torch.Tensor
    train_ids: np.ndarray | None

    @staticmethod
    def read(path: str) -> "Source":
        """Read a file."""
        with np.load(path) as file:
            known = file.get("train_ids")
            features, labels, ood = (torch.from_numpy(file[name]) for name in ("features", "labels", "ood"))
            return Source(features, labels.long(), int(file["test_from"]), ood, known)

    @property
    def num_classes(self) -> int:
        """Return k."""
        return int(self.labels.max()) + 1

    def data(self, profile: str, *, val: int, seed: int) -> FeatureData:
        """Draw a setting; train and val are the same for all profiles."""
        k = self.num_classes
        kind = "consistent" if profile == "ood" else profile
        pool = unlabeled_counts(UNIFORM if kind == "uniform" else POOL, FACTOR, k, profile=kind, seed=seed)
        known = np.empty(0, dtype=np.int64) if self.train_ids is None else self.train_ids
        free = np.setdiff1d(np.arange(self.test_from), known)
        wanted = {"train": [0] * k if len(known) else exponential_counts(TRAIN, FACTOR, k), "val": [val] * k}
        drawn = disjoint_class_draws(self.labels[free].numpy(), wanted | {"pool": pool}, seed=seed)
        rows = {name: torch.from_numpy(free[own]) for name, own in drawn.items()}
        if len(known):
            rows["train"] = torch.from_numpy(known)
        rows["test"] = torch.arange(self.test_from, len(self.labels))
        splits = {name: LabeledFeatures(self.features[rows[name]], self.labels[rows[name]]) for name in rows}
        own = splits.pop("pool")
        features, audit = own.features, own.labels
        if profile == "ood":
            count = round(len(audit) * NO_CLASS / (1 - NO_CLASS))
            strangers = np.random.default_rng(seed).permutation(len(self.ood))[:count]
            features = torch.cat([features, self.ood[torch.from_numpy(strangers)]])
            audit = torch.cat([audit, torch.full((len(strangers),), -1)])
        return FeatureData(
            [str(label) for label in range(k)], splits, {}, unlabeled=UnlabeledFeatures(features, audit=audit)
        )


def with_true_labels(data: FeatureData) -> FeatureData:
    """Return the setting of the oracle."""
    pool, train = data.unlabeled, data.splits["train"]
    inside = pool.audit >= 0
    joined = LabeledFeatures(
        torch.cat([train.features, pool.features[inside]]), torch.cat([train.labels, pool.audit[inside]])
    )
    return replace(data, splits=data.splits | {"train": joined}, unlabeled=None)


def plan(words: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what to run, as the key of its line: the seeds of a setting take turns with all settings like it."""
    for metric in words.metrics.split(","):
        for val in map(int, words.vals.split(",")):
            for seed in range(words.seeds):
                for name in words.features:
                    own = {"features": name, "val": val, "metric": metric, "seed": seed, "steps": words.steps}
                    yield own | {"what": "none", "profile": "", "options": {}}
                    for profile in words.profiles.split(","):
                        kind = "consistent" if profile == "ood" else profile
                        yield own | {"what": "oracle", "profile": kind, "options": {}}
                        for options in [{}] + (ABLATION if words.variants == "ablation" else []):
                            yield own | {"what": "pool", "profile": profile, "options": options}


def run(job: dict[str, Any], source: Source) -> dict[str, Any]:
    """Return the line of a tuning."""
    data = source.data(job["profile"] or "consistent", val=job["val"], seed=job["seed"])
    audit = data.unlabeled.audit
    data = with_true_labels(data) if job["what"] == "oracle" else data
    data = data.without_pool() if job["what"] == "none" else data
    counts = torch.bincount(data.splits["train"].labels, minlength=source.num_classes)
    metric = parse_metric(job["metric"]).bind(MetricContext(data.class_names, counts, 1))
    settings = RefineSettings(steps=job["steps"], start_steps=job["steps"])
    started = time.process_time()
    tuning = tune(data, metric, settings, seed=job["seed"], pseudo=PseudoSettings(**job["options"]))
    line = job | {"test": _figures(tuning), "start": tuning.start, "seconds": round(time.process_time() - started, 1)}
    if tuning.pool is None:
        return line
    return line | {"pool": _of_pool(tuning.pool, audit) | _of_trial(tuning, job["metric"])}


def _of_trial(tuning: Tuning, metric: str) -> dict[str, Any]:
    """Return how good the heads that learnt from the pool are, whether they were taken or not."""
    pool = tuning.pool
    if pool.heads is None:
        return {"tried": None, "difference_val": None}
    val, test = tuning.data.splits["val"], tuning.data.splits["test"]
    out_of_fold = _recalls(pool.labeler.plan.val_predictions(pool.heads).classes, val.labels)
    return {
        "tried": _recalls(pool.heads[-1].logits(test.tensor).argmax(1), test.labels),
        # what the trial would see of validation samples alone
        "difference_val": round(out_of_fold[metric] - tuning.evaluations["val"]["balanced"].metrics[metric], 6),
    }


def _figures(tuning: Tuning) -> dict[str, dict[str, float]]:
    return {
        head: {name: round(own.metrics[name], 6) for name in ("mean_recall", "min_recall")}
        for head, own in tuning.evaluations["test"].items()
        if head in ("balanced", "after")
    }


def _recalls(predictions: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    counts = confusion_counts(labels, predictions, int(labels.max()) + 1)
    recalls = counts.diagonal() / counts.sum(1)
    return {"mean_recall": round(float(recalls.mean()), 6), "min_recall": round(float(recalls.min()), 6)}


def _of_pool(pool: PoolUse, audit: torch.Tensor) -> dict[str, Any]:
    """Return what became of a pool, beside the truth."""
    labels, k = pool.labels, len(pool.labels.prior)
    classes = labels.of_head[-1]
    used = classes >= 0
    counts = torch.bincount(classes[used], minlength=k).double()
    true_prior = torch.bincount(audit[audit >= 0], minlength=k).double() / (audit >= 0).sum()
    return {
        "helps": pool.helps,
        "difference": _figure(pool.difference),
        "standard_error": _figure(pool.standard_error),
        "room": _figure(pool.room),
        "relief": _figure(pool.relief),
        "strangers": None if pool.strangers is None else _figure(pool.strangers),
        "count": int(used.sum()),
        "size": len(audit),
        # as estimated for the classes that are used, in the shares in which they are
        "estimated_precision": _figure((counts * labels.precision.estimate.nan_to_num()).sum() / counts.sum()),
        "true_precision": _figure((classes[used] == audit[used]).double().mean()),
        "no_class": _figure((audit[used] < 0).double().mean()),
        "prior_error": _figure((labels.prior - true_prior).abs().sum() / 2),
        "trusted": int(labels.trusted.sum()),
    }


def _figure(value: torch.Tensor | float) -> float | None:
    """Return a number for a line; None where there is none."""
    return round(float(value), 6) if math.isfinite(value) else None


def key(line: dict[str, Any]) -> str:
    """Return what tells one tuning from another."""
    return json.dumps({name: line[name] for name in KEY}, sort_keys=True)


def main() -> None:
    """Run what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("run", "table"))
    parser.add_argument("--features", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--vals", default="20,250")
    parser.add_argument("--metrics", default="mean_recall,min_recall")
    parser.add_argument("--profiles", default=",".join(PROFILES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=RefineSettings().steps)
    parser.add_argument("--variants", choices=("none", "ablation"), default="none")
    parser.add_argument("--out", default="docs/unlabeled.jsonl")
    words = parser.parse_args()
    words.features = dict(own.split("=", 1) for own in words.features)
    file = Path(words.out)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if words.verb == "table":
        print_tables(lines)
        return
    torch.set_num_threads(1)
    sources = {name: Source.read(path) for name, path in words.features.items()}
    done = {key(line) for line in lines}
    for job in plan(words):
        if key(job) in done:
            continue
        line = run(job, sources[job["features"]])
        done.add(key(job))
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
