"""The class prior of a pool without labels, read off what a head predicts there.

Convention: R[i, j] = P(yhat = j | y = i), `rates`, is known from labeled samples that the head has not learnt; q[j] is
the share of prediction j in the pool. If the pool differs from the labeled samples in nothing but its prior pi, then
q = R^T pi (label shift). There may be more predictions than classes: an abstention is one, too.

    maximum likelihood:  max_pi sum_j q_j log (R^T pi)_j          pi_i <- pi_i sum_j q_j R_ij / (R^T pi)_j

It weighs rare predictions as they deserve, where least squares on the simplex (BBSE) weighs all alike. A class of which
no labeled sample is judged has a row of zeros and gets no share (but for `pseudo_count`).

If the pool holds classes that do not exist, no mixture of the rows of R need explain q; `misfit` is how much of q the
best one leaves over. It sees only what changes the predictions in a way that no prior can: 0 proves nothing.

Sources: Saerens et al., Neural Computation 2002 (EM); Lipton et al., ICML 2018 (BBSE); Garg et al., NeurIPS 2020 (MLLS
on a confusion matrix).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from selmix.bootstrap import resampled_rows
from selmix.confusion import row_normalised

_STEPS = 20000
_TOLERANCE = 1e-9  # of the prior's change in a step, summed over classes
_ROUGH = 1e-5  # likewise in the bootstrap, whose own noise is larger


def estimate_prior(rates: torch.Tensor, counts: torch.Tensor, *, pseudo_count: float = 0.0) -> torch.Tensor:
    """Return the most likely prior, float64 [k].

    Args:
        rates: [k, c], P(yhat = j | y = i).
        counts: [c] predictions in the pool; those that no class makes are left aside. Uniform if there are none.
        pseudo_count: imaginary samples of the pool, spread evenly over all classes, so that no share is 0.
    """
    likeliest = _most_likely(_sparse(rates), _numpy(counts), _anything(rates), pseudo_count, _TOLERANCE)
    return torch.from_numpy(likeliest)


def prior_interval(
    confusion: torch.Tensor,
    counts: torch.Tensor,
    *,
    replicates: int,
    generator: np.random.Generator,
    level: float = 0.95,
    pseudo_count: float = 0.0,
) -> torch.Tensor:
    """Return a bootstrap interval of the most likely share of each class, float64 [2, k]: lower and upper ends.

    The predictions of each class's labeled samples and those of the pool are redrawn. A class of few labeled samples
    that are all predicted alike shows no spread of its own, so that one imaginary sample, which is predicted as all
    labeled ones are together, is added to the rates that they are redrawn from. At a level of 0.95 the true share lies
    inside in about 93 % of cases, in 85 to 99 % for the classes of some simulated tables; without it in 70 to 95 %.

    Args:
        confusion: [k, c] labeled samples of class i that are predicted as j; what they are worth, if they are weighted.
        counts: [c] predictions in the pool, at least one.
        replicates: bootstrap samples.
        generator: source of randomness.
        level: share of the replicates inside.
        pseudo_count: as in `estimate_prior`.
    """
    rates, pool = row_normalised(confusion.double()), _numpy(counts)
    # near the estimate, but for the zeros: EM never leaves one
    start = 0.9 * _numpy(estimate_prior(rates, counts, pseudo_count=pseudo_count)) + 0.1 * _anything(rates)
    spread = row_normalised(confusion.double() + confusion.double().sum(0) / confusion.sum().clamp_min(1e-300))
    spread[confusion.sum(1) == 0] = 0
    replicated = [
        _most_likely(rates, redrawn, start, pseudo_count, _ROUGH)
        for rates, redrawn in _redrawn(spread, confusion.sum(1), pool, replicates, generator)
    ]
    tail = (1 - level) / 2
    return torch.from_numpy(np.quantile(np.stack(replicated), [tail, 1 - tail], axis=0))


class Misfit(NamedTuple):
    """How much of the pool's predictions no mixture of the classes explains.

    Attributes:
        share: total variation distance between the predictions' shares and the best mixture.
        by_chance: what it would stay below in `level` of the cases if the pool were a mixture.
    """

    share: float
    by_chance: float


def misfit(
    confusion: torch.Tensor,
    counts: torch.Tensor,
    *,
    replicates: int,
    generator: np.random.Generator,
    level: float = 0.95,
) -> Misfit:
    """Return how much of the counts [c] the most likely mixture of the rows of `confusion` [k, c] leaves over.

    By chance: pools of that mixture, and labeled samples, are redrawn (parametric bootstrap).

    Args:
        confusion: as in `prior_interval`.
        counts: [c] predictions in the pool, at least one.
        replicates: bootstrap samples.
        generator: source of randomness.
        level: of `by_chance`.
    """
    rates, pool = row_normalised(confusion.double()), _numpy(counts)
    prior = _numpy(estimate_prior(rates, counts))
    mixture, start = prior @ _sparse(rates), 0.9 * prior + 0.1 * _anything(rates)
    chance = [
        _left_over(_most_likely(own, redrawn, start, 0, _ROUGH) @ own, redrawn)
        for own, redrawn in _redrawn(rates, confusion.sum(1), mixture * pool.sum(), replicates, generator)
    ]
    return Misfit(_left_over(mixture, pool), float(np.quantile(chance, level)))


def _redrawn(
    shares: torch.Tensor,
    sizes: torch.Tensor,
    expected: np.ndarray,
    replicates: int,
    generator: np.random.Generator,
) -> Iterator[tuple[csr_array, np.ndarray]]:
    """Yield rates of as many samples of each class, and predictions in the pool, as chance would vary them."""
    for rates in resampled_rows(shares, sizes, replicates=replicates, generator=generator):
        yield _sparse(rates), generator.multinomial(round(expected.sum()), expected / expected.sum()).astype(np.float64)


def _left_over(mixture: np.ndarray, counts: np.ndarray) -> float:
    return float(np.abs(mixture - counts / counts.sum()).sum() / 2)


def _most_likely(
    rates: csr_array, counts: np.ndarray, start: np.ndarray, pseudo_count: float, tolerance: float
) -> np.ndarray:
    back = csr_array(rates.T)

    def posterior_sums(prior: np.ndarray) -> np.ndarray:
        explained = back @ prior
        return prior * (rates @ np.divide(counts, explained, out=np.zeros_like(counts), where=explained > 0))

    return _fixed_point(posterior_sums, start, pseudo_count, tolerance)


def _fixed_point(
    posterior_sums: Callable[[np.ndarray], np.ndarray], prior: np.ndarray, pseudo_count: float, tolerance: float
) -> np.ndarray:
    """Iterate prior <- what the pool is expected to be under it, class by class, to where that changes nothing.

    EM is slow towards a share of 0, so every other step is followed by an extrapolation of the last two.

    Source: Varadhan and Roland, Scandinavian Journal of Statistics 2008 (SQUAREM, third step length).
    """

    def step(prior: np.ndarray) -> np.ndarray:
        expected = posterior_sums(prior) + pseudo_count / len(prior)
        return expected / expected.sum() if expected.sum() > 0 else prior

    for _ in range(_STEPS):
        once = step(prior)
        first = once - prior
        if np.abs(first).sum() < tolerance:
            return once
        twice = step(once)
        second = twice - once - first
        length = max(np.sqrt(np.square(first).sum() / max(np.square(second).sum(), 1e-300)), 1.0)
        leap = prior + 2 * length * first + length**2 * second
        # by a factor of ten at most: EM would be long in taking up again what falls to nearly 0
        prior = leap.clip(0.1 * twice, 10 * twice)
        prior = prior / prior.sum() if prior.sum() > 0 else twice
    return prior


def _anything(rates: torch.Tensor) -> np.ndarray:
    """Return the uniform prior over classes that are judged."""
    judged = _numpy(rates.sum(1) > 0)
    return judged / max(judged.sum(), 1.0)


def _sparse(rates: torch.Tensor) -> csr_array:
    return csr_array(_numpy(rates))


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.cpu().double().numpy()
