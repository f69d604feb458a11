"""Calibration: does a confidence of 0.8 mean 80 % correct?"""

import torch


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
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    index = torch.bucketize(confidence, edges)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, index.cpu(), (correct - confidence).cpu())
    return float(gap.abs().sum() / len(confidence))
