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
    weights: torch.Tensor | None = None,
    prior: torch.Tensor | None = None,
) -> tuple[float, float]:
    """Return psi(candidate) - psi(incumbent) on the same samples, and its standard error.

    Delta method: with g = dpsi/dC at the candidate (at an incumbent with a recall near 0 it can blow up), sample s of
    row r differs by x_s = g[r, candidate_s] - g[r, incumbent_s], and the metric by sum_r pi_r mean_{s in r} x_s. The
    samples of a row are draws from it, so the variance is sum_r pi_r^2 var_{s in r}(x_s) / n_r.

    Args:
        objective: psi, smooth: [k g, k] -> 0-d.
        rows: int64 [n], classes; with groups of samples, class * groups + group.
        candidate: predictions, int64 [n].
        incumbent: predictions, int64 [n].
        num_classes: k.
        pseudo_count: smoothing of the confusion matrices, as in `joint_confusion`.
        groups: g.
        weights: float64 [n], what each sample is worth (n_r is their sum over the row); 1, if not given.
        prior: float64 [k g], the shares pi_r; those of the samples, if not given.
    """
    better, worse = (
        joint_confusion(
            confusion_counts(rows, predictions, num_classes, groups=groups, weights=weights),
            pseudo_count=pseudo_count,
            prior=prior,
        )
        for predictions in (candidate, incumbent)
    )
    gradient = metric_gradient(objective, better)
    weights = torch.ones_like(rows, dtype=torch.float64) if weights is None else weights
    differences = gradient[rows, candidate] - gradient[rows, incumbent]

    def per_row(values: torch.Tensor) -> torch.Tensor:
        return torch.bincount(rows, values, minlength=len(better))

    support = per_row(weights).clamp_min(1e-300)
    mean, square = per_row(weights * differences) / support, per_row(weights * differences.square()) / support
    variance = (better.sum(1).square() * (square - mean.square()).clamp_min(0) / support).sum()
    return float(objective(better) - objective(worse)), float(variance.sqrt())
