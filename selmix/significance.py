"""Is one set of predictions better than another, or is it the luck of the validation split?"""

import torch

from selmix.confusion import confusion_counts, joint_confusion
from selmix.metrics import MetricFunction, metric_gradient


def paired_difference(
    objective: MetricFunction,
    labels: torch.Tensor,
    candidate: torch.Tensor,
    incumbent: torch.Tensor,
    num_classes: int,
    *,
    pseudo_count: float,
) -> tuple[float, float]:
    """Return psi(candidate) - psi(incumbent) on the same samples, and its standard error.

    Delta method: with g = dpsi/dC at the candidate (at an incumbent with a recall near 0 it can blow up), sample s
    contributes (g[y_s, candidate_s] - g[y_s, incumbent_s]) / n to the difference. Class counts are given and the
    samples of a class are draws from it, so the variance of the sum is the sum over classes of n_c times the variance
    of the contributions within class c.

    Args:
        objective: psi, smooth: [k, k] -> 0-d.
        labels: int64 [n].
        candidate: predictions, int64 [n].
        incumbent: predictions, int64 [n].
        num_classes: k.
        pseudo_count: smoothing of the confusion matrices, as in `joint_confusion`.
    """
    better, worse = (
        joint_confusion(confusion_counts(labels, predictions, num_classes), pseudo_count=pseudo_count)
        for predictions in (candidate, incumbent)
    )
    gradient = metric_gradient(objective, better)
    contributions = (gradient[labels, candidate] - gradient[labels, incumbent]) / len(labels)
    counts = torch.bincount(labels, minlength=num_classes).clamp_min(1)
    zeros = torch.zeros(num_classes, dtype=torch.float64, device=labels.device)
    sums = zeros.index_add(0, labels, contributions)
    squares = zeros.index_add(0, labels, contributions.square())
    variance = (squares - sums.square() / counts).clamp_min(0).sum()
    return float(objective(better) - objective(worse)), float(variance.sqrt())
