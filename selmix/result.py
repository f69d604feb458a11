"""The result of a run as one JSON document; its keys are a contract with other people's scripts."""

import platform
from typing import Any

import numpy as np
import timm
import torch
import torchvision

import selmix
from selmix.bootstrap import bootstrap_statistics, percentile_interval
from selmix.evaluation import UNDEFINED, UNDEFINED_OTHERWISE, defined_statistics
from selmix.metrics import Metric
from selmix.pipeline import Tuning
from selmix.seeding import torch_generator

SCHEMA = 1
HEADS = ("before", "balanced", "after")
REPLICATES = 1000


def describe(tuning: Tuning, metric: Metric, *, command: str, seed: int) -> dict[str, Any]:
    """Return `result.json`: rates in [0, 1], None where undefined (the reason stands under `undefined`).

    The intervals are 95 % bootstrap intervals over test samples, resampled within each class; they say nothing of the
    spread over seeds, backbones or validation splits. Without a test split they are missing and `optimistic` is true.
    """
    data, evaluations = tuning.data, tuning.evaluations
    support = {
        name: torch.bincount(split.labels, minlength=len(data.class_names)).tolist()
        for name, split in data.splits.items()
    }
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "metric": metric.name,
        "subject_to": [],
        "num_classes": len(data.class_names),
        "class_names": data.class_names,
        "support": support | {"unlabeled": data.unlabeled_count},
    }
    for name in HEADS:
        document[name] = {split: heads[name].metrics for split, heads in evaluations.items()}
    document["recall"] = {name: {split: heads[name].recall for split, heads in evaluations.items()} for name in HEADS}
    metrics = document["after"]["val"]
    return document | {
        "undefined": {
            name: UNDEFINED.get(name, UNDEFINED_OTHERWISE) for name, value in metrics.items() if value is None
        },
        "interval": _intervals(tuning, metric, seed) if "test" in evaluations else {},
        "constraints": [],
        "optimistic": "test" not in evaluations,
        "seed": seed,
        "start": tuning.start,
        "before_is": "given head" if data.head is not None else "linear probe",
        "steps": tuning.refined.steps,
        "best_step": tuning.refined.best_step,
        "seconds": {name: round(value, 3) for name, value in tuning.seconds.items()},
        "versions": {
            "selmix": selmix.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
        },
        "digests": data.digests,
    }


def _intervals(tuning: Tuning, metric: Metric, seed: int) -> dict[str, Any]:
    """Return 95 % intervals on test: of the tuned head, and of its change from the other heads on the same samples."""
    evaluations = tuning.evaluations["test"]
    before, balanced, after = bootstrap_statistics(
        tuning.data.splits["test"].labels,
        [evaluations[name].predictions for name in HEADS],
        defined_statistics(tuning.groups, metric),
        len(tuning.data.class_names),
        replicates=REPLICATES,
        generator=torch_generator(seed, "bootstrap"),
    )
    values = {
        "after": after,
        "change": {name: after[name] - before[name] for name in after},
        "change_from_balanced": {name: after[name] - balanced[name] for name in after},
    }
    return {
        key: {"test": {name: percentile_interval(value) for name, value in named.items()}}
        for key, named in values.items()
    }
