"""The result of a run as one JSON document; its keys are a contract with other people's scripts."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

import selmix
from selmix.audit.document import PoolAudit
from selmix.bootstrap import bootstrap_statistics, percentile_interval, resampled_counts, resampled_rows
from selmix.confusion import confusion_counts
from selmix.constraints import Constraint, feasibility
from selmix.diagnosis import agreements
from selmix.evaluation import UNDEFINED, UNDEFINED_OTHERWISE, Memory, defined_statistics, margins_suffice
from selmix.metrics import Metric
from selmix.pipeline import Tuning
from selmix.seeding import numpy_generator, torch_generator

SCHEMA = 1
HEADS = ("before", "balanced", "after")
REPLICATES = 1000
BOOTSTRAP = "bootstrap"  # the stream of random numbers of intervals on test


def describe(
    tuning: Tuning,
    metric: Metric,
    constraints: Sequence[Constraint],
    *,
    command: str,
    seed: int,
    audit: PoolAudit | None = None,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Return `result.json`: rates in [0, 1], None where undefined (the reason stands under `undefined`).

    The intervals are 95 % bootstrap intervals over test samples, resampled within each class (and group
    of samples, where there are some); they say nothing of the
    spread over seeds, backbones or validation splits. Without a test split they are missing and `optimistic` is true.
    Runs with one seed on the same data may share a `memory`, which saves what they have in common.
    """
    data, evaluations = tuning.data, tuning.evaluations
    support = {name: own.sum(1).tolist() for name, own in tuning.support.items()}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "metric": metric.name,
        "subject_to": [constraint.text for constraint in constraints],
        "num_classes": len(data.class_names),
        "class_names": data.class_names,
        "support": support | {"unlabeled": tuning.unlabeled_count},
    }
    for name in HEADS:
        document[name] = {split: heads[name].metrics for split, heads in evaluations.items()}
    document["recall"] = {name: {split: heads[name].recall for split, heads in evaluations.items()} for name in HEADS}
    document["groups"] = _groups(tuning) if data.group_names else None
    metrics = document["after"]["val"]
    return document | {
        "calibration": {
            "temperature": tuning.calibration.temperature,
            "samples": tuning.calibration.samples,
        }
        | tuning.calibration.figures,
        "undefined": undefined(metrics),
        "interval": _intervals(tuning, metric, seed, memory) if "test" in evaluations else {},
        "constraints": _constraints(tuning, constraints, seed) if constraints else [],
        "diagnosis": {name: agreements(own) for name, own in tuning.diagnoses.items()} or None,
        "pseudo_labels": None if audit is None else audit.document,
        "optimistic": "test" not in evaluations,
        "seed": seed,
        "start": tuning.start,
        "before_is": "given head" if data.head is not None else "linear probe",
        "steps": tuning.refined.steps,
        "best_step": tuning.refined.best_step,
        "seconds": {name: round(value, 3) for name, value in tuning.seconds.items()},
        "versions": versions(),
        "digests": data.digests,
        "origin": data.origin or None,
        "features": data.cache or None,
    }


def undefined(metrics: dict[str, float | None]) -> dict[str, str]:
    """Return why metrics have no value, for those that have none."""
    return {name: UNDEFINED.get(name, UNDEFINED_OTHERWISE) for name, value in metrics.items() if value is None}


def versions() -> dict[str, str]:
    """Return the versions of what a number depends on."""
    return {
        "selmix": selmix.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "numpy": np.__version__,
    }


def _groups(tuning: Tuning) -> dict[str, Any]:
    """Return names, samples of each class in each group, and the recall there, null where there is no sample."""
    support = {name: own.tolist() for name, own in tuning.support.items()}
    recall = {name: {split: heads[name].group_recall for split, heads in tuning.evaluations.items()} for name in HEADS}
    return {"names": tuning.data.group_names, "support": support, "recall": recall}


def _constraints(tuning: Tuning, constraints: Sequence[Constraint], seed: int) -> list[dict[str, Any]]:
    """Return what became of every constraint: on the evidence that steered (`val`, which decides `met`) and on test.

    The evidence is all that is judged out of fold, train samples weighed by what they tell of validation.
    """
    refined = tuning.refined
    redrawn = resampled_rows(
        refined.confusion, refined.support, replicates=REPLICATES, generator=numpy_generator(seed, "constraints")
    )
    kept = {"val": feasibility(constraints, refined.confusion, redrawn)}
    if "test" in tuning.evaluations:
        data, predictions = tuning.data, tuning.evaluations["test"]["after"].predictions
        rows, num_classes, groups = tuning.rows["test"], len(data.class_names), data.num_groups
        counts = confusion_counts(rows, predictions, num_classes, groups=groups)
        drawn = resampled_counts(
            rows,
            [predictions],
            num_classes,
            replicates=REPLICATES,
            generator=torch_generator(seed, BOOTSTRAP),
            groups=groups,
        )
        kept["test"] = feasibility(constraints, counts, (own for (own,) in drawn))
    reports = []
    for position, constraint in enumerate(constraints):
        parts = {split: own[position] for split, own in kept.items()}
        reports.append(
            {
                "expression": constraint.text,
                "bound": constraint.bound,
                "val": parts["val"].value,
                "test": parts["test"].value if "test" in parts else None,
                "met": parts["val"].met,
                "met_on_test": parts["test"].met if "test" in parts else None,
                "worst": {split: own.worst_item for split, own in parts.items()},
                "interval": {split: own.interval for split, own in parts.items()},
            }
        )
    return reports


def _intervals(tuning: Tuning, metric: Metric, seed: int, memory: Memory | None) -> dict[str, Any]:
    """Return 95 % intervals on test: of the tuned head, and of its change from the other heads on the same samples."""
    evaluations = tuning.evaluations["test"]
    before, balanced, after = bootstrap_statistics(
        tuning.rows["test"],
        [evaluations[name].predictions for name in HEADS],
        defined_statistics(tuning.groups, metric, memory=memory),
        len(tuning.data.class_names),
        replicates=REPLICATES,
        generator=torch_generator(seed, BOOTSTRAP),
        groups=tuning.data.num_groups,
        margins=margins_suffice(metric, len(tuning.data.class_names), tuning.data.num_groups),
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
