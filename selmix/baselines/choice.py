"""Choosing one number or one classifier for a metric."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from selmix.confusion import confusion_counts, joint_confusion, recall
from selmix.metrics import MetricFunction

_Candidate = TypeVar("_Candidate")
Score = tuple[float, float]
_DIGITS = 12  # sums of the same numbers in another order are no progress


def score_counts(counts: torch.Tensor, metric: MetricFunction) -> Score:
    """Rank confusion counts [k, k]: by the metric, and among equals by mean recall (a minimum has many equals)."""
    confusion = joint_confusion(counts)
    return round(float(metric(confusion)), _DIGITS), round(float(recall(confusion).mean()), _DIGITS)


def score_logits(logits: torch.Tensor, labels: torch.Tensor, metric: MetricFunction) -> Score:
    """Rank logits [n, k] by what their largest says about `labels` [n]."""
    return score_counts(confusion_counts(labels, logits.argmax(1), logits.shape[1]), metric)


def best_for(
    candidates: Iterable[_Candidate],
    logits_of: Callable[[_Candidate], torch.Tensor],
    labels: torch.Tensor,
    metric: MetricFunction,
) -> _Candidate:
    """Return the first of the candidates with the best score on validation logits."""
    return max(candidates, key=lambda candidate: score_logits(logits_of(candidate), labels, metric))
