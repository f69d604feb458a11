"""Class means of features."""

import torch

from selmix.features.rows import Rows, row_blocks


def class_means(features: Rows, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the mean feature of every class, reading the features once, in blocks.

    Args:
        features: [n, d].
        labels: int64 [n].
        num_classes: k.

    Returns:
        float64 [k, d]: gains are differences of nearly equal numbers, and their signs decide which pairs are drawn.
        Zeros for a class without samples.
    """
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=features.device)
    for block, rows in row_blocks(features):
        sums.index_add_(0, labels[block], rows.double())
    counts = torch.bincount(labels, minlength=num_classes)
    return sums / counts.clamp_min(1).unsqueeze(1)
