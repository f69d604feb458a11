r"""Minima and how they are rounded for tuning, in units of what chance does to the numbers compared.

A minimum of estimated numbers has a kink, and where two of them are closer than their standard errors nobody knows
which is the smaller. So tuning ascends a soft minimum, whose sharpness is measured in standard errors.

Standard errors are those of the delta method. Validation samples of row i (a class, or a class and a group) are n_i
draws from the row's distribution S_i, and C_ij = pi_i S_ij with pi fixed, so for a number v(C) with g = dv/dC

    var(v) = sum_i pi_i^2 / n_i * Var_{j ~ S_i}(g_ij).

A row in which all samples fared alike would have variance 0, however few they are. So two imaginary samples join each
row, one that would have done the most for v and one that would have done the least. For a recall r of n samples this is
r' (1 - r') / n with r' = (r n + 1) / (n + 2).
"""

from collections.abc import Callable

import torch

from selmix.confusion import class_prior, row_normalised

SoftMinimum = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(values [m], standard errors [m]) -> 0-d."""

Minimum = Callable[[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]
"""(values [m], support [rows] -> standard errors [m]) -> 0-d; the errors are worked out only where they are needed."""

_SMALLEST_ERROR = 1e-6  # keeps the sharpness finite where there is no error


def hard_minimum(values: torch.Tensor, errors: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return the minimum; the errors are of no interest to it."""
    return values.amin()


def rounded(soft_minimum: SoftMinimum, support: torch.Tensor) -> Minimum:
    """Return the minimum that hands the standard errors at this support to `soft_minimum`, as constants."""
    return lambda values, errors: soft_minimum(values, errors(support.to(values)).detach())


def soft_minimum(values: torch.Tensor, standard_errors: torch.Tensor, *, sharpness: float) -> torch.Tensor:
    """Return -log(mean exp(-s v)) / s with s = sharpness / (root mean square of the standard errors).

    Its gradient is softmax(-s v), the memoryless multipliers of the SelMix release. It exceeds the minimum by at most
    log(m) / s.

    Args:
        values: [m].
        standard_errors: [m]; if all are 0 the sharpness is large but finite.
        sharpness: inverse temperature per standard error.

    >>> values, errors = torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.1])
    >>> round(float(soft_minimum(values, errors, sharpness=1000)), 3)
    0.8
    """
    steepness = sharpness / standard_errors.square().mean().sqrt().clamp_min(_SMALLEST_ERROR)
    log_count = torch.log(torch.tensor(float(len(values)), dtype=values.dtype, device=values.device))
    return (log_count - torch.logsumexp(-steepness * values, 0)) / steepness


def rate_variance(rate: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Return the variance of rates (recalls), each of so many samples, with the two imaginary samples."""
    rate = (rate * support + 1) / (support + 2)
    return rate * (1 - rate) / support.clamp_min(1)


def delta_errors(values: torch.Tensor, confusion: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Return the standard errors of numbers computed from a confusion matrix.

    Args:
        values: [m], with a graph that leads to `confusion`.
        confusion: [rows, k] that requires a gradient.
        support: validation samples of each row, [rows].
    """
    return torch.stack([_delta_variance(value, confusion, support) for value in values]).sqrt()


def _delta_variance(value: torch.Tensor, confusion: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    if not value.requires_grad:
        return torch.zeros_like(value)
    (gradient,) = torch.autograd.grad(value, confusion, retain_graph=True)
    share, prior = row_normalised(confusion.detach()), class_prior(confusion.detach())
    # centred first: what is left of the squares must not drown in a common offset
    gradient = gradient - (share * gradient).sum(1, keepdim=True)
    best, worst = gradient.amax(1), gradient.amin(1)
    mean = (best + worst) / (support + 2)
    square = ((share * gradient.square()).sum(1) * support + best.square() + worst.square()) / (support + 2)
    return (prior.square() / support.clamp_min(1) * (square - mean.square())).sum().clamp_min(0)
