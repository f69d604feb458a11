"""Dual ascent: multipliers that remember how long a constraint has been violated.

    maximise psi(C) subject to slack_m(C) >= 0
    L(C, lambda) = psi(C) + sum_m lambda_m slack_m(C)
    primal step: C up the gradient of L;  dual step: lambda <- max(0, lambda - rate * slack(C))

A multiplier grows as long as its constraint is violated and falls to 0 where there is room. For concave psi and slack
the averages of the iterates tend to the constrained optimum.

Source: Arrow, Hurwicz and Uzawa, 1958; with validation data for the dual step as in Cotter et al., ALT 2019.
"""

import torch

from selmix.metrics.metric import MetricFunction


def lagrangian(objective: MetricFunction, slack: MetricFunction, multipliers: torch.Tensor) -> MetricFunction:
    """Return L(., lambda) as a function of the confusion matrix.

    Args:
        objective: psi, [rows, k] -> 0-d.
        slack: [rows, k] -> [m], `joint_slack` or `joint_smooth_slack`.
        multipliers: lambda, [m], >= 0.
    """
    return lambda confusion: objective(confusion) + multipliers.to(confusion) @ slack(confusion)


def ascend_multipliers(
    multipliers: torch.Tensor, slack: torch.Tensor, *, rate: float, largest: float = float("inf")
) -> torch.Tensor:
    """Return the multipliers after one dual step, [m].

    Args:
        multipliers: lambda, [m].
        slack: at the confusion matrix of validation, [m].
        rate: step size.
        largest: cap that keeps an infeasible constraint from drowning the metric.
    """
    return (multipliers - rate * slack.detach().to(multipliers)).clamp(0, largest)
