"""Everything that is reported of a head on a split."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch

from selmix.calibration import expected_calibration_error
from selmix.confusion import class_confusion, confusion_counts, coverage, joint_confusion
from selmix.margins import Margins
from selmix.metrics import METRICS, Metric
from selmix.metrics.groups import HEAD_ABOVE, TAIL_BELOW, ClassGroups, min_head_tail_recall, worst_group_recall
from selmix.predictions import Predictions

MANY = 256  # classes from which on margins take the place of confusion matrices where they suffice

# of confusion counts, by their digest: what `count_statistics` says of them without a metric
Memory = dict[bytes, dict[str, float | None]]

UNDEFINED = {
    "head_recall": f"no class of this split has more than {HEAD_ABOVE} training samples",
    "medium_recall": f"no class of this split has {TAIL_BELOW} to {HEAD_ABOVE} training samples",
    "tail_recall": f"no class of this split has fewer than {TAIL_BELOW} training samples",
    "min_head_tail_recall": "head or tail has no class in this split",
}
UNDEFINED_OTHERWISE = "it needs a class that has no sample in this split"


def margins_suffice(metric: Metric | None, num_classes: int, num_groups: int = 1) -> bool:
    """Return whether `count_statistics` of many classes may be had from the margins of counts."""
    return num_classes >= MANY and num_groups == 1 and (metric is None or not metric.whole)


def count_statistics(
    counts: torch.Tensor | Margins,
    groups: ClassGroups,
    metric: Metric | None = None,
    *,
    listed: dict[str, float | None] | None = None,
) -> dict[str, float | None]:
    """Return every metric of confusion counts; a class without samples has no recall and is left out.

    Args:
        counts: [k, k], or [k g, k] with a row for each class and group of samples; or margins, where these suffice.
        groups: head, medium and tail classes.
        metric: what is tuned for; reported under its name whether it is a listed one or not.
        listed: the same without a metric, if it is known.

    Returns:
        Name -> value; None where undefined, and `UNDEFINED` says why.
    """
    # formulas take margins for a matrix: they read no more of it
    matrix = cast(torch.Tensor, counts)
    confusion = cast(torch.Tensor, counts.joint()) if isinstance(counts, Margins) else joint_confusion(counts)
    result = _listed_statistics(matrix, confusion, groups) if listed is None else dict(listed)
    if metric is not None and result.get(metric.name) is None:
        value = float(metric(confusion))
        result[metric.name] = None if math.isnan(value) else value
    return result


def _listed_statistics(counts: torch.Tensor, confusion: torch.Tensor, groups: ClassGroups) -> dict[str, float | None]:
    recalls = class_recalls(counts)
    present = ~recalls.isnan()
    result: dict[str, float | None] = {name: float(value(confusion)) for name, value in METRICS.items()}
    result["min_coverage"] = float(coverage(confusion).amin())
    for group, members in groups.members.items():
        result[f"{group}_recall"] = float(recalls[members & present].mean()) if (members & present).any() else None
    both = groups.head_and_tail
    if both is None or not (both & present).any(1).all():
        result["min_head_tail_recall"] = None
    else:
        result["min_head_tail_recall"] = float(min_head_tail_recall(confusion, both))
    if len(counts) > counts.shape[1]:
        result["worst_group_recall"] = float(worst_group_recall(confusion))
    return result


def class_recalls(counts: torch.Tensor) -> torch.Tensor:
    """Return the recall of every class, [k], NaN without samples, from confusion counts [k, k] or [k g, k]."""
    by_class = class_confusion(counts)
    return by_class.diagonal() / by_class.sum(1)


@dataclass(frozen=True)
class Evaluation:
    """What a head did on a split.

    Attributes:
        metrics: every reported metric, rates in [0, 1]; None where undefined.
        recall: of each class; None for a class without samples.
        predicted: the predictions [n] that were evaluated.
        group_recall: of each class in each group of samples, k lists of g; None for a cell without samples.
    """

    metrics: dict[str, float | None]
    recall: list[float | None]
    predicted: Predictions
    group_recall: list[list[float | None]]

    @property
    def predictions(self) -> torch.Tensor:
        """Return the predicted classes, int64 [n]."""
        return self.predicted.classes


def evaluate(
    predictions: Predictions,
    rows: torch.Tensor,
    groups: ClassGroups,
    metric: Metric | None = None,
    *,
    num_classes: int,
    num_groups: int = 1,
) -> Evaluation:
    """Evaluate predictions [n] on their confusion rows [n]; `metric` is tuned for.

    A row is a label; with g > 1 groups of samples label * g + group.
    """
    counts = confusion_counts(rows, predictions.classes, num_classes, groups=num_groups)
    metrics = count_statistics(counts, groups, metric)
    metrics["ece"] = expected_calibration_error(
        predictions.confidence, predictions.classes == rows.div(num_groups, rounding_mode="floor")
    )
    recall = [None if math.isnan(value) else value for value in class_recalls(counts).tolist()]
    return Evaluation(metrics, recall, predictions, _group_recall(counts, num_groups))


def _group_recall(counts: torch.Tensor, num_groups: int) -> list[list[float | None]]:
    cells = counts.view(-1, num_groups, counts.shape[1])
    right, support = cells.diagonal(dim1=0, dim2=2).T.tolist(), cells.sum(2).tolist()
    return [
        [own / count if count else None for own, count in zip(*pair, strict=True)]
        for pair in zip(right, support, strict=True)
    ]


def defined_statistics(
    groups: ClassGroups, metric: Metric | None = None, *, memory: Memory | None = None
) -> Callable[[torch.Tensor | Margins], dict[str, float]]:
    """Return `count_statistics` for these groups and this metric, without the undefined ones.

    With a `memory` the listed ones are computed once for the same counts; it is for these groups alone.
    """

    def statistics(counts: torch.Tensor | Margins) -> dict[str, float]:
        listed = None
        if memory is not None:
            content = torch.stack(list(vars(counts).values())) if isinstance(counts, Margins) else counts
            key = hashlib.blake2b(content.numpy().tobytes(), digest_size=16).digest()
            listed = memory.get(key) or memory.setdefault(key, count_statistics(counts, groups))
        own = count_statistics(counts, groups, metric, listed=listed)
        return {name: value for name, value in own.items() if value is not None}

    return statistics
