"""Calibration: does a confidence of 0.8 mean 80 % correct?"""

from typing import NamedTuple

import torch


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
