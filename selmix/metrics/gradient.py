"""The gradient of a metric, in the confusion matrix and in logit space."""

import torch

from selmix.confusion import row_normalised
from selmix.metrics.metric import MetricFunction


def metric_gradient(metric: MetricFunction, confusion: torch.Tensor) -> torch.Tensor:
    """Return g = dpsi/dC by autograd, float64 [rows, k], all entries of C taken as free."""
    point = confusion.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(metric(point), point)
    return gradient


def logit_gradient(metric: MetricFunction, confusion: torch.Tensor) -> torch.Tensor:
    """Return M = dpsi/dA, the gradient pulled back through the row softmax, for any class prior.

    Write C_ij = pi_i S_ij with S = softmax of the rows of a logit matrix A and pi fixed. Then
    dS_ij/dA_il = S_ij (1[j=l] - S_il), and with g = dpsi/dC
        M_il = pi_i sum_j g_ij S_ij (1[j=l] - S_il) = C_il (g_il - sum_j g_ij S_ij).
    Every row of M sums to 0; the row of a class without samples is 0.

    Args:
        metric: psi, [rows, k] -> 0-d; differentiable at `confusion`.
        confusion: [rows, k] joint confusion matrix; a row for each class, or for each class and group.

    Returns:
        float64 [rows, k].

    Source: SelMix, ICLR 2024 (unconstrained reparametrisation), here in closed form without a k^4 tensor.
    """
    gradient = metric_gradient(metric, confusion)
    confusion = confusion.double()
    expected = (gradient * row_normalised(confusion)).sum(1, keepdim=True)
    return confusion * (gradient - expected)
