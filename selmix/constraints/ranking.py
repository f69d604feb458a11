"""Which of several candidate heads is the best when there are constraints."""

import torch

from selmix.constraints.constraint import TOLERANCE


def rank_key(metric: float, slack: torch.Tensor) -> tuple[bool, float, float]:
    """Return what candidates are ranked by; the largest is the best.

    A candidate that meets every constraint is better than one that does not; those that do are ranked by the metric,
    the others by the smaller sum of their violations, and by the metric among equals.

    Args:
        metric: of the candidate.
        slack: of every constrained item, [m]; m may be 0.

    >>> rank_key(0.5, torch.tensor([0.1])) > rank_key(0.9, torch.tensor([-0.1])) > rank_key(0.9, torch.tensor([-0.2]))
    True
    """
    violation = float((-slack).clamp_min(0).sum())
    met = bool((slack >= -TOLERANCE).all())
    return met, 0.0 if met else -violation, metric
