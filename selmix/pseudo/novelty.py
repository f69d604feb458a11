"""Is a sample of the pool like anything that is labeled? How much of the pool is of no known class?

Likeness is the mean cosine to the nearest labeled samples, found with the vote (`voting.py`). Labeled samples have a
likeness, too, to the others. A pool of which a share s is of no known class has likenesses of distribution function

    F_pool = (1 - s) F_labeled + s F_other,        so at any t:  s >= (F_pool(t) - F_labeled(t)) / (1 - F_labeled(t)),

with equality where F_other(t) = 1. `share_unlike` is the largest such bound over low quantiles t of the labeled
samples. It compares like with like only if labeled samples and pool come to the backbone alike: where it knows the
labeled images by heart, ask those of validation (as queries, with those of train for the bank, and nobody `own`).

Source: Sun et al., ICML 2022 (distance to neighbours as a sign of novelty); the bound is that of mixture proportions
(Blanchard et al., JMLR 2010).
"""

import torch

_QUANTILES = torch.linspace(0.02, 0.5, 25, dtype=torch.float64)
_ERRORS = 3.0
_FEWEST = 10  # of which something is said: of fewer, bounds are above 0 by luck too often


def likeness(similarities: torch.Tensor, *, count: int = 10) -> torch.Tensor:
    """Return the mean similarity to the nearest `count`, float32 [m]; -1, that of an opposite, if there is nobody.

    Args:
        similarities: [m, s] cosines, largest first; -inf where there is none. Fewer than `count` count as they are.
        count: neighbours.
    """
    nearest = similarities[:, :count]
    there = nearest > float("-inf")
    number = there.sum(1)
    return torch.where(number > 0, nearest.masked_fill(~there, 0).sum(1) / number.clamp_min(1), -1)


def share_unlike(own: torch.Tensor, weights: torch.Tensor, pool: torch.Tensor) -> float:
    """Return a lower bound of the pool's share that is of no known class, in [0, 1]; 0 for a pool of fewer than ten.

    Three standard errors are taken off at every quantile, or the largest of many bounds would owe too much to luck, and
    each share counts one sample more on either side in its error, for what a few samples happen not to show. So a pool
    that differs in nothing but its prior has a bound above 0 in fewer than one case in twenty.

    Args:
        own: [n] likenesses of labeled samples, each to the others; n may not be 0.
        weights: [n], what each counts, not all 0: `class_weights`.
        pool: [m] likenesses of the pool.
    """
    if len(pool) < _FEWEST:
        return 0.0
    bounds = _quantiles(own, weights, _QUANTILES)
    below = _below(own, weights, bounds)  # at most one half
    in_pool = _below(pool, torch.ones_like(pool), bounds)
    size = weights.double().sum().square() / weights.double().square().sum()  # Kish: equal samples they are worth
    error = (_variance(below, size) + _variance(in_pool, torch.tensor(len(pool)))).sqrt()
    return float(((in_pool - below - _ERRORS * error) / (1 - below)).amax().clamp(0, 1))


def _variance(share: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    rate = (share * size + 1) / (size + 2)
    return rate * (1 - rate) / (size + 2)


def class_weights(labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Return weights of labeled samples [n] that make them a sample of another prior [k], float64; their sum is 1.

    A class without samples is left out.
    """
    counts = torch.bincount(labels, minlength=len(prior))
    weights = (prior.double() / counts.clamp_min(1))[labels]
    return weights / weights.sum().clamp_min(1e-300)


def _quantiles(values: torch.Tensor, weights: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return the least values that at least so much of the weight is at or below."""
    ordered, order = values.sort()
    mass = weights.double()[order].cumsum(0)
    return ordered[torch.searchsorted(mass / mass[-1], shares - 1e-12).clamp(max=len(values) - 1)]


def _below(values: torch.Tensor, weights: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Return the share of the weight that lies below each bound."""
    ordered, order = values.sort()
    mass = torch.cat([torch.zeros(1), weights[order].double().cumsum(0)])
    return mass[torch.searchsorted(ordered, bounds)] / mass[-1]
