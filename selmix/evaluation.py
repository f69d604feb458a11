"""Everything that is reported of a head on a split."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from selmix.calibration import expected_calibration_error
from selmix.confusion import confusion_counts, coverage, joint_confusion
from selmix.metrics import METRICS

HEAD_ABOVE, TAIL_BELOW = 100, 20  # training samples; the field's "many" and "few" shot borders


@dataclass(frozen=True)
class ClassGroups:
    """Head, medium and tail classes by training count (more than 100, 20 to 100, fewer than 20), never by index.

    Attributes:
        members: group name -> bool [k].
    """

    members: dict[str, torch.Tensor]

    @classmethod
    def from_counts(cls, class_counts: torch.Tensor) -> "ClassGroups":
        """Group the classes by their training counts, int64 [k]."""
        head, tail = class_counts > HEAD_ABOVE, class_counts < TAIL_BELOW
        return cls({"head": head, "medium": ~head & ~tail, "tail": tail})


# what is reported beside the metrics that can be tuned
REPORTED = {
    "q_mean": "1 - sqrt(mean_i (1 - r_i)^2)",
    "min_coverage": "min_j c_j, the smallest share of the predictions",
    "head_recall": f"mean recall of the classes with more than {HEAD_ABOVE} training samples",
    "medium_recall": f"mean recall of the classes with {TAIL_BELOW} to {HEAD_ABOVE} training samples",
    "tail_recall": f"mean recall of the classes with fewer than {TAIL_BELOW} training samples",
    "min_head_tail_recall": "the smaller of head_recall and tail_recall",
    "ece": "expected calibration error, 15 bins; lower is better",
}

UNDEFINED = {
    "head_recall": f"no class has more than {HEAD_ABOVE} training samples",
    "medium_recall": f"no class has {TAIL_BELOW} to {HEAD_ABOVE} training samples",
    "tail_recall": f"no class has fewer than {TAIL_BELOW} training samples",
    "min_head_tail_recall": "head or tail has no class",
}


def count_statistics(counts: torch.Tensor, groups: ClassGroups) -> dict[str, float | None]:
    """Return every metric of confusion counts [k, k] in which every class has a sample.

    None where undefined; `UNDEFINED` says why.
    """
    confusion = joint_confusion(counts)
    recalls = counts.diagonal() / counts.sum(1)
    result: dict[str, float | None] = {name: float(metric(confusion)) for name, metric in METRICS.items()}
    result["q_mean"] = 1 - float((1 - recalls).square().mean().sqrt())
    result["min_coverage"] = float(coverage(confusion).amin())
    for group, members in groups.members.items():
        result[f"{group}_recall"] = float(recalls[members].mean()) if members.any() else None
    head, tail = result["head_recall"], result["tail_recall"]
    result["min_head_tail_recall"] = None if head is None or tail is None else min(head, tail)
    return result


@dataclass(frozen=True)
class Evaluation:
    """What a head did on a split.

    Attributes:
        metrics: every reported metric, rates in [0, 1]; None where undefined.
        recall: of each class.
        predictions: int64 [n].
    """

    metrics: dict[str, float | None]
    recall: list[float]
    predictions: torch.Tensor


def evaluate(logits: torch.Tensor, labels: torch.Tensor, groups: ClassGroups) -> Evaluation:
    """Evaluate logits [n, k] on labels [n] in which every class has a sample."""
    confidence, predictions = logits.double().softmax(1).max(1)
    counts = confusion_counts(labels, predictions, logits.shape[1])
    metrics = count_statistics(counts, groups)
    metrics["ece"] = expected_calibration_error(confidence, predictions == labels)
    return Evaluation(metrics, (counts.diagonal() / counts.sum(1)).tolist(), predictions)


def defined_statistics(groups: ClassGroups) -> Callable[[torch.Tensor], dict[str, float]]:
    """Return `count_statistics` for these groups, without the undefined ones."""
    return lambda counts: {name: value for name, value in count_statistics(counts, groups).items() if value is not None}
