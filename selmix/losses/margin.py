"""LDAM: margins between classes, larger for smaller ones.

Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.
"""

import torch
from torch.nn import functional as F


def ldam_margins(class_counts: torch.Tensor, *, max_margin: float) -> torch.Tensor:
    """Return max_margin (n_min / n_k)^(1/4), float64 [k]: `max_margin` for the smallest class, less for larger ones.

    Args:
        class_counts: [k] training samples, each >= 1.
        max_margin: >= 0, a difference of cosines.

    Source: equation 13, scaled as in section 3.4.
    """
    counts = class_counts.double()
    return max_margin * (counts.min() / counts) ** 0.25


def ldam(cosines: torch.Tensor, labels: torch.Tensor, *, margins: torch.Tensor, scale: float) -> torch.Tensor:
    """Return CE(scale * (cosines - margin of the own class), y) of every sample, [b].

    Args:
        cosines: [b, k], of features and class weights.
        labels: int64 [b].
        margins: [k], from `ldam_margins`.
        scale: > 0, what makes logits of cosines.

    Source: equation 10.
    """
    own = margins.to(cosines)[labels][:, None]
    return F.cross_entropy(scale * cosines.scatter_add(1, labels[:, None], -own), labels, reduction="none")
