"""The prior of a pool: exact on exact mixtures, against a naive EM and scipy's optimisers, and inside its interval."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from selmix.pseudo.prior import estimate_prior, misfit, prior_interval

K = 5
LONG_TAIL = 20.0 ** -torch.linspace(0, 1, K, dtype=torch.float64)
PRIORS = {
    "matched": LONG_TAIL / LONG_TAIL.sum(),
    "reversed": LONG_TAIL.flip(0) / LONG_TAIL.sum(),
    "uniform": torch.full((K,), 1 / K, dtype=torch.float64),
}


def random_rates(seed: int, columns: int = K) -> torch.Tensor:
    """Return rates with 55 to 85 % on the diagonal, unequal elsewhere."""
    generator = np.random.default_rng(seed)
    rates = generator.dirichlet(np.full(columns, 0.7), K) * generator.uniform(0.15, 0.45, (K, 1))
    rates[np.arange(K), np.arange(K)] += 1 - rates.sum(1)
    return torch.from_numpy(rates)


@pytest.mark.parametrize("columns", [K, K + 1], ids=["classes", "and_abstentions"])
@pytest.mark.parametrize("name", PRIORS)
def test_an_exact_mixture_is_taken_apart(name, columns):
    rates, prior = random_rates(0, columns), PRIORS[name]
    counts = 1e6 * prior @ rates
    torch.testing.assert_close(estimate_prior(rates, counts), prior, atol=1e-6, rtol=0)
    chance = misfit(1000 * rates, counts, replicates=20, generator=np.random.default_rng(0))
    assert chance.share < 1e-6
    # as many equations as shares: luck is explained, too
    assert (1e-3 < chance.by_chance < 0.02) if columns > K else chance.by_chance < 1e-4


def naive_em(rates, counts, steps, pseudo_count):
    prior = [1 / K] * K
    for _ in range(steps):
        expected = [pseudo_count / K] * K
        for j, count in enumerate(counts):
            mixture = sum(prior[i] * rates[i][j] for i in range(K))
            for i in range(K):
                expected[i] += count * prior[i] * rates[i][j] / mixture
        prior = [e / sum(expected) for e in expected]
    return prior


@pytest.mark.parametrize("pseudo_count", [0.0, 10.0])
def test_the_most_likely_prior_is_that_of_a_naive_em_and_of_slsqp(pseudo_count):
    rates = random_rates(1)
    counts = torch.tensor([300.0, 120, 40, 25, 15])  # explained by no mixture alone
    found = estimate_prior(rates, counts, pseudo_count=pseudo_count)
    assert found.tolist() == pytest.approx(naive_em(rates.tolist(), counts.tolist(), 3000, pseudo_count), abs=1e-7)
    weights = counts.numpy()

    def loss(prior):
        imaginary = pseudo_count / K * np.log(np.maximum(prior, 1e-300)).sum()
        return -(weights @ np.log(prior @ rates.numpy()) + imaginary) / weights.sum()

    best = minimize(
        loss,
        np.full(K, 1 / K),
        bounds=[(1e-12, 1)] * K,
        constraints={"type": "eq", "fun": lambda prior: prior.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert loss(found.numpy()) <= best.fun + 1e-9
    assert found.tolist() == pytest.approx(best.x, abs=1e-3)
    assert bool((found > 0.003).all()) == (pseudo_count > 0)


def test_classes_without_evidence_get_nothing_but_what_is_imagined():
    rates = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0, 0, 0]])
    counts = torch.tensor([50.0, 30, 20])
    found = estimate_prior(rates, counts)
    assert found[2] == 0
    assert float(found.sum()) == pytest.approx(1)
    # 10 / 3 imaginary samples among 100 of the pool and 10 imaginary ones
    assert float(estimate_prior(rates, counts, pseudo_count=10)[2]) == pytest.approx(10 / 3 / 110)
    # a prediction that no class makes tells nothing: 60 and 30 remain, of classes that are never mistaken
    never = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    assert estimate_prior(never, torch.tensor([60.0, 30, 10])).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert estimate_prior(never, torch.zeros(3)).tolist() == [0.5, 0.5]
    assert estimate_prior(torch.zeros(2, 2), counts[:2]).tolist() == [0, 0]


def simulated(prior: torch.Tensor, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a confusion matrix of 150 labeled samples a class, and the predictions of a pool of 3000."""
    rates = random_rates(3).numpy()
    confusion = torch.from_numpy(generator.multinomial(150, rates)).double()
    return confusion, torch.from_numpy(generator.multinomial(3000, prior.numpy() @ rates))


def test_the_interval_covers():
    generator, prior = np.random.default_rng(0), PRIORS["matched"]
    covered = np.zeros(K)
    for _ in range(60):
        lower, upper = prior_interval(*simulated(prior, generator), replicates=60, generator=generator)
        covered += ((lower <= prior) & (prior <= upper)).numpy()
        assert float((upper - lower).max()) < 0.3
    # nominal 95 %, of which a percentile bootstrap of rates that are noisy themselves keeps 90 to 95
    assert covered.min() / 60 >= 0.85
    assert covered.mean() / 60 >= 0.9


def test_the_interval_covers_where_few_labels_show_no_spread():
    # of 20 labels of a class some ways to err are not seen at all: without the imaginary sample that of class 0,
    # which the others are taken for, holds in 82 %
    generator, sizes, prior = np.random.default_rng(6), np.array([200, 100, 60, 30, 20]), PRIORS["reversed"]
    rates, covered = random_rates(3).numpy(), np.zeros(K)
    for _ in range(120):
        confusion = torch.from_numpy(generator.multinomial(sizes, rates)).double()
        counts = torch.from_numpy(generator.multinomial(900, prior.numpy() @ rates))
        lower, upper = prior_interval(confusion, counts, replicates=60, generator=generator)
        covered += ((lower <= prior) & (prior <= upper)).numpy()
    assert covered[0] / 120 >= 0.92
    assert covered.mean() / 120 >= 0.9


def test_a_pool_with_other_classes_is_seen_and_one_without_is_not():
    generator = np.random.default_rng(1)
    seen = 0
    for _ in range(40):
        confusion, counts = simulated(PRIORS["uniform"], generator)
        found = misfit(confusion, counts, replicates=30, generator=generator)
        seen += found.share > found.by_chance
    assert seen <= 6  # 5 % of 40 are 2; 7 or more have probability 0.003
    # every third sample of the pool is of a class that is always taken for class 0 where others are never all of it
    rates = torch.tensor([[0.5, 0.5], [0.2, 0.8]], dtype=torch.float64)
    counts = 3000 * torch.tensor([0.75, 0.25], dtype=torch.float64)
    found = misfit(200 * rates, counts, replicates=30, generator=generator)
    # the best is class 0 alone: 0.75 against 0.5
    assert found.share == pytest.approx(0.25, abs=1e-4)
    assert found.by_chance < 0.1


def test_the_misfit_is_hardly_more_than_the_least_distance():
    generator = np.random.default_rng(2)
    rates = random_rates(4, K + 1)
    counts = torch.from_numpy(generator.dirichlet(np.full(K + 1, 0.5)) * 1000)
    found = misfit(100 * rates, counts, replicates=2, generator=generator).share
    # min 1^T t with -t <= R^T pi - q <= t, pi on the simplex
    shares, one = counts.numpy() / 1000, np.eye(K + 1)
    best = linprog(
        np.append(np.zeros(K), np.ones(K + 1)),
        np.block([[rates.numpy().T, -one], [-rates.numpy().T, -one]]),
        np.append(shares, -shares),
        np.append(np.ones(K), np.zeros(K + 1))[None],
        [1],
    )
    assert best.fun / 2 > 0.1
    assert best.fun / 2 - 1e-9 <= found <= 1.5 * best.fun / 2


def test_the_same_generator_gives_the_same_interval():
    confusion, counts = simulated(PRIORS["matched"], np.random.default_rng(5))
    one, other = (
        prior_interval(confusion, counts, replicates=5, generator=np.random.default_rng(7), level=0.8) for _ in range(2)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, prior_interval(confusion, counts, replicates=5, generator=np.random.default_rng(8)))
