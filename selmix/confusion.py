"""The joint confusion matrix and what is read off it.

Convention: C[i, j] = P(y = i, yhat = j), rows are the truth, the entries sum to 1. Statistics are float64 throughout:
recalls of rare classes are ratios of small numbers, and metrics compare them.
"""

import torch


def confusion_counts(
    rows: torch.Tensor,
    predictions: torch.Tensor,
    num_classes: int,
    *,
    groups: int = 1,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Count (truth, prediction) pairs.

    Args:
        rows: [n] int64 true classes, in 0..k-1; with groups of samples, class * groups + group.
        predictions: [n] int64 predicted classes, in 0..k-1.
        num_classes: k.
        groups: groups of samples, g.
        weights: float64 [n], what each sample counts; 1, if not given.

    Returns:
        float64 [k g, k]; entry (i, j) is the number of samples of row i predicted as j.
    """
    num_rows = num_classes * groups
    cells = torch.bincount(rows * num_classes + predictions, weights, minlength=num_rows * num_classes)
    return cells.view(num_rows, num_classes).double()


def joint_confusion(
    counts: torch.Tensor, *, pseudo_count: float = 0.0, prior: torch.Tensor | None = None
) -> torch.Tensor:
    """Turn counts into the joint confusion matrix, optionally smoothed within each row.

    Smoothing adds `pseudo_count / k` to every cell of a class's row and rescales the row to its own count, so the class
    prior is untouched and no recall of a class with samples is exactly zero.

    Args:
        counts: [rows, k] from `confusion_counts`; samples may be weighted.
        pseudo_count: imaginary samples per class, spread evenly over the predictions.
        prior: [rows], what the rows are to sum to; their share of the counts, if not given.

    Returns:
        float64 [rows, k] that sums to 1 (all zeros if there is no sample).
    """
    support = counts.sum(1, keepdim=True)
    share = support / _or_one(support.sum()) if prior is None else prior[:, None] * (support > 0)
    return (counts + pseudo_count / counts.shape[1]) * share / _or_one(support + pseudo_count)


def class_confusion(confusion: torch.Tensor) -> torch.Tensor:
    """Return the confusion matrix of the classes, whatever the group of a sample.

    Args:
        confusion: [k g, k], joint or counts, with a row for each class and group of samples (row = class * g + group).

    Returns:
        [k, k]; the matrix itself when there is one group.
    """
    rows, num_classes = confusion.shape
    return confusion if rows == num_classes else confusion.view(num_classes, -1, num_classes).sum(1)


def class_prior(confusion: torch.Tensor) -> torch.Tensor:
    """Return P(y = i), [k]."""
    return confusion.sum(1)


def coverage(confusion: torch.Tensor) -> torch.Tensor:
    """Return P(yhat = j), [k]."""
    return confusion.sum(0)


def row_normalised(confusion: torch.Tensor) -> torch.Tensor:
    """Return P(yhat = j | y = i), [k, k]; the row of a class without samples is zero."""
    return confusion / _or_one(class_prior(confusion)).unsqueeze(1)


def recall(confusion: torch.Tensor) -> torch.Tensor:
    """Return the recall of the classes that have samples, in class order, [number of such classes]."""
    prior = class_prior(confusion)
    present = prior > 0
    return confusion.diagonal()[present] / prior[present]


def _or_one(total: torch.Tensor) -> torch.Tensor:
    """Return a total to divide by: 1 where it is 0."""
    return torch.where(total > 0, total, 1)
