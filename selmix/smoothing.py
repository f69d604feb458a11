"""Label-aware smoothing: targets less certain of large classes, of which long-tailed training is too sure."""

import math

import torch


def label_aware_smoothing(class_counts: torch.Tensor, *, head: float, tail: float = 0.0) -> torch.Tensor:
    """Return the smoothing eps of every class, [k], rising with its training count n_y.

    eps_y = tail + (head - tail) sin(pi/2 (n_y - n_min) / (n_max - n_min)), the concave form; head where all n are
    equal.

    Args:
        class_counts: [k] training samples.
        head: eps of the largest class, in [0, 1).
        tail: eps of the smallest class, in [0, 1).

    Source: Zhong et al., "Improving Calibration for Long-Tailed Recognition", CVPR 2021, section 3.2.
    """
    counts = class_counts.double()
    spread = counts.max() - counts.min()
    place = (counts - counts.min()) / spread if spread > 0 else torch.ones_like(counts)
    return tail + (head - tail) * (place * math.pi / 2).sin()


def smoothed_targets(labels: torch.Tensor, smoothing: torch.Tensor) -> torch.Tensor:
    """Return the target distributions (1 - eps_y) one_hot(y) + eps_y / k.

    The share of the true class follows the released code of MiSLAS, which smooths over all k classes.

    Args:
        labels: int64 [...].
        smoothing: eps, [k], in the dtype of the result.

    Returns:
        [..., k].
    """
    num_classes = len(smoothing)
    eps = smoothing[labels].unsqueeze(-1)
    one_hot = labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)
    return one_hot * (1 - eps) + eps / num_classes
