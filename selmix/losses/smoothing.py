"""Label-aware smoothing: targets less certain of large classes, of which long-tailed training is too sure."""

import math
from typing import Literal

import torch
from torch.nn import functional as F

Shape = Literal["concave", "linear", "convex", "exp"]
Variant = Literal["code", "paper"]


def label_aware_smoothing(
    class_counts: torch.Tensor, *, head: float, tail: float = 0.0, shape: Shape = "concave", power: float = 1.0
) -> torch.Tensor:
    """Return the smoothing eps of every class, float64 [k], which goes with its training count n_y.

    eps_y = tail + (head - tail) g(r), r = (n_y - n_min) / (n_max - n_min), where g(r) is sin(pi r / 2) (concave), r
    (linear), 1 - cos(pi r / 2) (convex) or r^power (exp); head where all n are equal.

    Args:
        class_counts: [k] training samples.
        head: eps of the largest class, in [0, 1).
        tail: eps of the smallest class, in [0, 1).
        shape: of g.
        power: > 0, of `exp`.

    Source: Zhong et al., "Improving Calibration for Long-Tailed Recognition", CVPR 2021, section 3.2.
    """
    counts = class_counts.double()
    spread = counts.max() - counts.min()
    place = (counts - counts.min()) / spread if spread > 0 else torch.ones_like(counts)
    if shape == "concave":
        place = (place * math.pi / 2).sin()
    elif shape == "convex":
        place = 1 - (place * math.pi / 2).cos()
    elif shape == "exp":
        place = place**power
    return tail + (head - tail) * place


def smoothed_targets(labels: torch.Tensor, smoothing: torch.Tensor, *, variant: Variant = "code") -> torch.Tensor:
    """Return the target distributions: eps_y is taken from the true class and spread evenly.

    Over all k classes, the true one included, in the released code of MiSLAS; over the k - 1 others in its paper.

    Args:
        labels: int64 [...].
        smoothing: eps, [k], in the dtype of the result.
        variant: over which classes.

    Returns:
        [..., k].
    """
    num_classes = len(smoothing)
    eps = smoothing[labels].unsqueeze(-1)
    if variant == "paper":
        eps = eps * num_classes / (num_classes - 1)
    one_hot = labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)
    return one_hot * (1 - eps) + eps / num_classes


def smoothed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, smoothing: torch.Tensor, variant: Variant = "code"
) -> torch.Tensor:
    """Return the cross-entropy with smoothed targets of every sample, [b].

    Args:
        logits: [b, k].
        labels: int64 [b].
        smoothing: eps, [k], from `label_aware_smoothing`; all alike is plain label smoothing.
        variant: see `smoothed_targets`.

    Source: Zhong et al., CVPR 2021, equations 3 and 4.
    """
    targets = smoothed_targets(labels, smoothing.to(logits), variant=variant)
    return F.cross_entropy(logits, targets, reduction="none")
