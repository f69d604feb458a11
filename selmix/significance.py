"""Is one set of predictions better than another, or is it the luck of the validation split?"""

import torch

from selmix.confusion import confusion_counts, joint_confusion
from selmix.metrics import MetricFunction, metric_gradient


def paired_difference(
    objective: MetricFunction,
    rows: torch.Tensor,
    candidate: torch.Tensor,
    incumbent: torch.Tensor,
    num_classes: int,
    *,
    pseudo_count: float,
    groups: int = 1,
) -> tuple[float, float]:
    """Return psi(candidate) - psi(incumbent) on the same samples, and its standard error.

    Delta method: with g = dpsi/dC at the candidate (at an incumbent with a recall near 0 it can blow up), sample s
    contributes (g[row_s, candidate_s] - g[row_s, incumbent_s]) / n to the difference. Row counts are given and the
    samples of a row are draws from it, so the variance of the sum is the sum over rows of n_r times the variance of
    the contributions within row r.

    Args:
        objective: psi, smooth: [k g, k] -> 0-d.
        rows: int64 [n], classes; with groups of samples, class * groups + group.
        candidate: predictions, int64 [n].
        incumbent: predictions, int64 [n].
        num_classes: k.
        pseudo_count: smoothing of the confusion matrices, as in `joint_confusion`.
        groups: g.
    """
    better, worse = (
        joint_confusion(confusion_counts(rows, predictions, num_classes, groups=groups), pseudo_count=pseudo_count)
        for predictions in (candidate, incumbent)
    )
    gradient = metric_gradient(objective, better)
    contributions = (gradient[rows, candidate] - gradient[rows, incumbent]) / len(rows)
    num_rows = num_classes * groups
    counts = torch.bincount(rows, minlength=num_rows).clamp_min(1)
    zeros = torch.zeros(num_rows, dtype=torch.float64, device=rows.device)
    sums = zeros.index_add(0, rows, contributions)
    squares = zeros.index_add(0, rows, contributions.square())
    variance = (squares - sums.square() / counts).clamp_min(0).sum()
    return float(objective(better) - objective(worse)), float(variance.sqrt())
