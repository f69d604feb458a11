"""What is unlike anything labeled: by hand, and on Gaussian clusters of which some are of no known class."""

import math

import numpy as np
import pytest
import torch

from selmix.pseudo.novelty import _quantiles, class_weights, likeness, share_unlike
from selmix.pseudo.voting import VoteSettings, VotingBank

KNOWN, OTHERS = 4, 3
LABELED = torch.tensor([400, 200, 100, 50])


def test_likeness_is_the_mean_of_those_who_are_there():
    none = -math.inf
    similarities = torch.tensor([[0.9, 0.7, 0.2], [0.5, none, none], [none, none, none]])
    assert likeness(similarities, count=2).tolist() == pytest.approx([0.8, 0.5, -1])
    assert likeness(similarities, count=9)[0].item() == pytest.approx(0.6)


def test_quantiles_are_numpys_quantile_where_all_count_the_same():
    own = torch.randn(101, generator=torch.Generator().manual_seed(0))
    for share in (0.05, 0.31):
        found = _quantiles(own, torch.ones(101), torch.tensor([share], dtype=torch.float64))
        assert float(found) == pytest.approx(np.quantile(own.numpy(), share, method="inverted_cdf"))
    # a sample of weight 3 is three samples
    weights = torch.arange(101) % 3 + 1
    many = np.quantile(own.repeat_interleave(weights).numpy(), 0.2, method="inverted_cdf")
    assert float(_quantiles(own, weights, torch.tensor([0.2], dtype=torch.float64))) == pytest.approx(many)


def test_the_share_by_hand():
    own, weights = torch.linspace(0, 1, 10001), torch.ones(10001)
    # a quarter of the pool lies below all samples, the rest lies as they do: the bound is a quarter at every quantile,
    # less three standard errors, which are least, relative to 1 - F, at one of them
    pool = torch.cat([torch.full((10001,), -1.0), own, own, own])
    expected = []
    for number in range(25):
        below = 0.02 + 0.02 * number
        in_pool = 0.25 + 0.75 * below
        error = math.sqrt(below * (1 - below) / 10001 + in_pool * (1 - in_pool) / 40004)
        expected.append((in_pool - below - 3 * error) / (1 - below))
    assert share_unlike(own, weights, pool) == pytest.approx(max(expected), abs=3e-4)
    assert 0.235 < max(expected) < 0.25
    assert share_unlike(own, weights, own) == 0
    assert share_unlike(own, weights, own + 5) == 0
    assert share_unlike(own, weights, own - 5) == pytest.approx(1, abs=5e-3)
    for count in (0, 1, 9):
        assert share_unlike(own, weights, own[:count] - 5) == 0
    # one sample and one of the pool prove nothing; ten and ten: two shares of 11/12, of 12, leave 1 - 3 * 0.113
    assert share_unlike(own[:1], weights[:1], own[:1] - 0.1) == 0
    ten = share_unlike(own[:10], weights[:10], own[:10] - 5)
    assert ten == pytest.approx(1 - 3 * math.sqrt(2 * 11 / 12**3), abs=1e-6)
    # ten samples that weigh as much as 1000 others are worth no more than ten
    few = share_unlike(own[:10], torch.ones(10), own[:10] - 5)
    many = torch.cat([torch.full((10,), 100.0), torch.full((1000,), 1e-9)])
    assert share_unlike(torch.cat([own[:10], own[:1000]]), many, own[:10] - 5) == pytest.approx(few, abs=1e-3)


def test_weights_follow_a_prior():
    labels = torch.tensor([0, 0, 0, 1])
    assert class_weights(labels, torch.tensor([0.25, 0.25, 0.5])).tolist() == pytest.approx([1 / 6] * 3 + [1 / 2])
    assert class_weights(labels, torch.zeros(2)).tolist() == [0] * 4


def clusters(share: float, prior: torch.Tensor, *, seed: int) -> tuple[torch.Tensor, ...]:
    """Return labeled features and labels, and a pool of 2000, a share of which is of no known class."""
    generator = torch.Generator().manual_seed(seed)
    means = 1.5 * torch.randn(KNOWN + OTHERS, 16, generator=torch.Generator().manual_seed(100))
    labels = torch.arange(KNOWN).repeat_interleave(LABELED)
    novel = torch.arange(2000) < 2000 * share
    source = torch.multinomial(prior, 2000, replacement=True, generator=generator)
    source = torch.where(novel, KNOWN + torch.arange(2000) % OTHERS, source)

    # the smaller the class, the wider, so that its samples are the least alike
    def drawn(classes: torch.Tensor) -> torch.Tensor:
        width = torch.where(classes < KNOWN, 0.7 + 0.1 * classes, 1.0)
        return means[classes] + width[:, None] * torch.randn(len(classes), 16, generator=generator)

    return drawn(labels), labels, drawn(source)


def judged(bank: torch.Tensor, labels: torch.Tensor, pool: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    voting, settings = VotingBank(bank, labels, KNOWN), VoteSettings()
    own = voting.search(bank, settings, own=torch.arange(len(bank)))
    return likeness(own.similarities), likeness(voting.search(pool, settings).similarities)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("prior", [[8.0, 4, 2, 1], [1.0, 2, 4, 8]], ids=["matched", "reversed"])
def test_the_share_of_other_clusters_is_found(share, prior):
    weights = torch.tensor(prior)
    bank, labels, pool = clusters(share, weights, seed=1)
    own, likely = judged(bank, labels, pool)
    samples = class_weights(labels, weights / weights.sum())
    # three standard errors below, with the luck of 50 samples that are half of a reversed pool
    assert 0.6 * share <= share_unlike(own, samples, likely) <= share


@pytest.mark.parametrize("counts", [[4] * 10, [15] * 5, [200, 100, 50, 20, 10]], ids=str)
def test_a_pool_of_known_classes_alone_is_hardly_ever_suspected(counts):
    # likenesses are drawn outright: each class has its own level
    generator, suspected = torch.Generator().manual_seed(4), 0
    prior = torch.arange(1.0, len(counts) + 1)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    weights = class_weights(labels, prior / prior.sum())

    def drawn(classes: torch.Tensor) -> torch.Tensor:
        return 0.5 + 0.3 * classes / len(counts) + 0.1 * torch.randn(len(classes), generator=generator)

    for _ in range(200):
        pool = torch.multinomial(prior, 900, replacement=True, generator=generator)
        suspected += share_unlike(drawn(labels), weights, drawn(pool)) > 0
    assert suspected / 200 <= 0.05


def test_a_reversed_pool_seems_novel_under_the_wrong_weights():
    bank, labels, pool = clusters(0.0, torch.tensor([1.0, 2, 4, 8]), seed=1)
    own, likely = judged(bank, labels, pool)
    assert share_unlike(own, torch.ones(len(labels)), likely) > 0.1
