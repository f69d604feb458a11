"""Class means of features."""

import torch

from selmix.features.rows import Rows, row_blocks
from selmix.ranks import ALONE, Ranks


def class_means(features: Rows, labels: torch.Tensor, num_classes: int, *, ranks: Ranks = ALONE) -> torch.Tensor:
    """Return the mean feature of every class, reading the features once, in blocks.

    Args:
        features: [n, d].
        labels: int64 [n].
        num_classes: k.
        ranks: whose samples count, each with its own part.

    Returns:
        float64 [k, d]: gains are differences of nearly equal numbers, and their signs decide which pairs are drawn.
        Zeros for a class without samples.
    """
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=features.device)
    for block, rows in row_blocks(features):
        sums.index_add_(0, labels[block], rows.double())
    counts = ranks.total(torch.bincount(labels, minlength=num_classes))
    return ranks.total(sums) / counts.clamp_min(1).unsqueeze(1)
