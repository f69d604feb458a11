"""Sources of pseudo-labels: class probabilities [m, k] from logits, and the agreement of two sources.

A row of zeros is an abstention. All works row by row, so a large pool is done in blocks. Votes of nearest neighbours
are in `voting.py`, label propagation is in `propagation.py`.
"""

import torch


def head_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return the softmax of logits [m, k], float32; a row with nan or inf abstains.

    >>> head_probabilities(torch.tensor([[0.0, 0.0], [float("nan"), 1.0]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    return _softmax(logits, logits.new_zeros(logits.shape[1], dtype=torch.float64))


def corrected_probabilities(logits: torch.Tensor, trained_prior: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Return the probabilities under another class prior, float32 [m, k]: softmax(logits + log prior - log trained).

    A class without a share of either prior gets probability 0: what its logit was trained to mean is unknown.

    Args:
        logits: [m, k]; a row with nan or inf abstains.
        trained_prior: [k], the prior that the logits answer for: uniform for a class-balanced head.
        prior: [k], that of the pool.

    Source: Saerens et al., Neural Computation 2002, eq. 2.4; Menon et al., ICLR 2021 (logit adjustment).
    """
    known = (trained_prior > 0) & (prior > 0)
    shift = torch.where(known, prior.double().log() - trained_prior.double().log(), float("-inf"))
    return _softmax(logits, shift)


def agreed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the mean of two sources, [m, k], where both have the same most likely class; else abstain."""
    both = (first > 0).any(1) & (second > 0).any(1) & (first.argmax(1) == second.argmax(1))
    return torch.where(both[:, None], (first + second) / 2, 0)


def _softmax(logits: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return the float32 softmax of logits + shift; zeros where that is not a number (all classes are ruled out)."""
    probabilities = (logits.double() + shift.to(logits.device)).softmax(1)
    return torch.where(probabilities.isfinite().all(1, keepdim=True), probabilities, 0).float()
