"""Calibration: does a confidence of 0.8 mean 80 % correct?"""

from typing import NamedTuple

import torch

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
_STEPS, _CLOSE = 100, 1e-9


class Reliability(NamedTuple):
    """What confidences are worth, bin by bin.

    Attributes:
        samples: int64 [bins], how many lie in each.
        confidence: float64 [bins], their mean confidence; NaN without samples.
        accuracy: float64 [bins], the share of them that is right; NaN without samples.
    """

    samples: torch.Tensor
    confidence: torch.Tensor
    accuracy: torch.Tensor


def reliability(confidence: torch.Tensor, correct: torch.Tensor, *, bins: int = 15) -> Reliability:
    """Return what lies in each of the bins of `expected_calibration_error`, whose arguments these are."""
    index = _bin_of(confidence.double(), bins)
    count = torch.bincount(index, minlength=bins)
    sums = (torch.bincount(index, own.double(), minlength=bins) for own in (confidence, correct))
    return Reliability(count, *(own / count for own in sums))


def expected_calibration_error(confidence: torch.Tensor, correct: torch.Tensor, *, bins: int = 15) -> float:
    """Return the ECE: the mean over samples of |accuracy - mean confidence| of the sample's confidence bin.

    Args:
        confidence: [n] largest probability of each sample.
        correct: bool [n].
        bins: equal-width bins of (0, 1], closed on the right; a confidence of exactly 0 goes to the first.

    Returns:
        In [0, 1]; n must be at least 1.

    Source: Naeini et al., AAAI 2015; Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    confidence, correct = confidence.double(), correct.double()
    index = _bin_of(confidence, bins)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, index.cpu(), (correct - confidence).cpu())
    return float(gap.abs().sum() / len(confidence))


def _bin_of(confidence: torch.Tensor, bins: int) -> torch.Tensor:
    return torch.bucketize(confidence, torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins)


def negative_log_likelihood(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return -log softmax(logits)[label] of each sample, float64 [n], from logits [n, k] and labels, int64 [n]."""
    logits = logits.double()
    return logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor, *, start: float = 1.0) -> float:
    """Return the temperature T in [0.05, 20] for which softmax(logits / T) gives the labels the largest likelihood.

    With u = 1 / T the mean of f(u) = log sum_j exp(u z_j) - u z_y is convex: its slope is the mean of E[z] - z_y, its
    curvature that of Var[z], z distributed as softmax(u z). Newton's steps find the zero of the slope, bisection where
    a step leaves the bracket.

    T is 1 where the labels do not tell: if T makes no difference, and if even T = 0.05 is not sure enough for them. So
    it is where all are right by a margin, for which T = 0 would be likeliest: too few have been seen to promise that.

    Args:
        logits: [n, k], n at least 1, finite.
        labels: int64 [n].
        start: a guess of T; a good one saves steps.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    # as differences from the label's: the slope is then exact to the last bit where probabilities are nearly 0 and 1
    logits = logits.double() - logits.double().gather(1, labels[:, None])

    def slope(inverse: float) -> tuple[float, float]:
        weighted = (inverse * logits).softmax(1).mul_(logits)
        mean = weighted.sum(1)
        return float(mean.mean()), float((weighted.mul_(logits).sum(1) - mean.square()).mean())

    if slope(1 / LOWEST_TEMPERATURE)[0] < 0:
        return 1.0
    low, high = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE
    inverse = 1 / start
    for _ in range(_STEPS):
        value, curvature = slope(inverse)
        if value == 0:
            break
        low, high = (inverse, high) if value < 0 else (low, inverse)
        newton = inverse - value / curvature if curvature > 0 else high if value < 0 else low
        if min(abs(newton - inverse), high - low) <= _CLOSE * inverse:
            break
        inverse = newton if low < newton < high else (low + high) / 2
    return 1 / inverse
