"""The vote of labeled neighbours: against a naive one sample by sample, and what a pool can be short of."""

import math

import pytest
import torch

from selmix.errors import UsageError
from selmix.features.rows import StackedRows
from selmix.pseudo.voting import VoteSettings, VotingBank

UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features, unbalanced labels and folds of 40 labeled samples (some of none), and 15 queries."""
    labels = torch.tensor([0] * 25 + [1] * 10 + [2] * 5)
    bank = normal(40, 4, seed=0) + 1.5 * torch.eye(4)[labels] + 3
    folds = torch.randint(-1, 4, (40,), generator=torch.Generator().manual_seed(1))
    return bank, labels, folds, normal(15, 4, seed=2) + 3.5


def naive_vote(bank, labels, query, voters, prior, *, count, temperature) -> list[float]:
    """Return the shares of the classes in the vote of the nearest of `voters`; centre of the whole bank."""
    centre = sum(bank[labels == c].double().mean(0) for c in range(3)) / 3
    mine = query.double() - centre
    similarity = {}
    for i in voters:
        row = bank[i].double() - centre
        similarity[i] = float(mine @ row / (mine.norm() * row.norm()))
    votes = [0.0] * 3
    for i in sorted(similarity, key=similarity.get, reverse=True)[:count]:
        c = int(labels[i])
        size = sum(int(labels[j]) == c for j in voters)
        votes[c] += math.exp(similarity[i] / temperature) * float(prior[c]) / size
    return [vote / sum(votes) for vote in votes]


@pytest.mark.parametrize("excluded", [-1, 0, 2, 4])
def test_the_vote_is_the_naive_one_for_every_head(excluded):
    bank, labels, folds, queries = case()
    prior = torch.tensor([0.2, 0.3, 0.5])
    voting = VotingBank(bank, labels, 3, folds=folds)
    votes = voting.search(StackedRows([queries[:6], queries[6:]]), VoteSettings(count=7, temperature=0.3))
    voters = [i for i in range(40) if excluded < 0 or folds[i] != excluded]
    expected = [naive_vote(bank, labels, query, voters, prior, count=7, temperature=0.3) for query in queries]
    torch.testing.assert_close(votes.probabilities(prior, excluded=excluded), torch.tensor(expected))
    part = votes.probabilities(prior, excluded=excluded, rows=slice(4, 9))
    torch.testing.assert_close(part, torch.tensor(expected[4:9]))


def test_labeled_queries_are_judged_by_others():
    bank, labels, folds, _ = case()
    voting = VotingBank(bank, labels, 3, folds=folds)
    settings = VoteSettings(count=7, temperature=0.3)
    votes = voting.search(bank, settings, own=torch.arange(40))
    for excluded in (torch.full((40,), -1), folds):
        found = votes.probabilities(UNIFORM, excluded=excluded)
        for i in range(40):
            voters = [j for j in range(40) if j != i and (excluded[i] < 0 or folds[j] != excluded[i])]
            expected = naive_vote(bank, labels, bank[i], voters, UNIFORM, count=7, temperature=0.3)
            assert found[i].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_vote_estimates_the_posterior_under_any_prior():
    # two classes on the circle, with density proportional to 1 +- cos(angle): p(c | x) is known; 9 of 10 labels are 0
    generator = torch.Generator().manual_seed(3)

    def drawn(sign: int, count: int) -> torch.Tensor:
        angles = 2 * math.pi * torch.rand(20 * count, generator=generator)
        angles = angles[torch.rand(20 * count, generator=generator) < (1 + sign * angles.cos()) / 2][:count]
        return torch.stack([angles.cos(), angles.sin()], 1)

    bank = torch.cat([drawn(1, 36000), drawn(-1, 4000)])
    # mirrored: the class means, about (1/2, 0) and (-1/2, 0), have their mean at 0
    bank = torch.cat([bank * torch.tensor([1, 1]), bank * torch.tensor([1, -1])])
    labels = torch.tensor([0] * 36000 + [1] * 4000).repeat(2)
    angles = torch.linspace(0.4, 3, 20)
    queries = torch.stack([angles.cos(), angles.sin()], 1)
    votes = VotingBank(bank, labels, 2).search(queries, VoteSettings(count=6000, temperature=0.05))
    for share in (0.5, 0.1):
        odds = share * (1 + angles.cos())
        posterior = odds / (odds + (1 - share) * (1 - angles.cos()))
        found = votes.probabilities(torch.tensor([share, 1 - share]))[:, 0]
        # some tens of the rarer class's 8000 samples lie within reach: odds to 15 %, shares to a quarter of that
        assert float((found - posterior).abs().max()) < 0.05


def test_what_is_missing_does_not_vote():
    labels = torch.tensor([0, 1])
    bank = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    queries = torch.tensor([[1.0, 0.0], [math.nan, 0.0]])
    # fewer samples than neighbours: cosines 1 and -1, so odds exp(2 / T)
    votes = VotingBank(bank, labels, 3).search(queries, VoteSettings(count=5, temperature=1.0))
    assert votes.positions.tolist() == [[0, 1], [-1, -1]]
    assert votes.probabilities(UNIFORM)[0].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 0])
    assert not votes.probabilities(UNIFORM)[1].any()
    # the fold of the nearest left out; then everybody; then a prior without the voters' class
    votes = VotingBank(bank, labels, 3, folds=torch.tensor([0, 0])).search(queries[:1], VoteSettings())
    assert not votes.probabilities(UNIFORM, excluded=0).any()
    assert not votes.probabilities(torch.tensor([0.0, 0.0, 1.0])).any()
    empty = VotingBank(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), 3)
    assert empty.search(queries, VoteSettings()).probabilities(UNIFORM).tolist() == [[0] * 3] * 2
    assert VotingBank(bank, labels, 3).search(bank[:0], VoteSettings()).probabilities(UNIFORM).shape == (0, 3)
    alone = VotingBank(bank[:1] + 1, labels[:1], 1).search(queries[:1], VoteSettings(margin=0.9))
    assert alone.probabilities(torch.ones(1)).tolist() == [[1]]


def test_a_narrow_lead_abstains():
    bank, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
    # cosines 0.6 and -0.6: the lead is tanh(0.6 / T)
    queries = torch.tensor([[0.6, 0.8]])
    for margin, abstains in ((math.tanh(0.6) - 0.01, False), (math.tanh(0.6) + 0.01, True)):
        votes = VotingBank(bank, labels, 2).search(queries, VoteSettings(temperature=1.0, margin=margin))
        assert bool(votes.probabilities(torch.ones(2)).any()) is not abstains


def test_enough_neighbours_remain_for_every_head():
    labels = torch.zeros(3000, dtype=torch.int64)
    folds = torch.randperm(3000, generator=torch.Generator().manual_seed(0)) % 5
    votes = VotingBank(normal(3000, 8, seed=4), labels, 1, folds=folds).search(
        normal(500, 8, seed=5), VoteSettings(count=20)
    )
    remaining = torch.stack([(folds[votes.positions.long()] != fold).sum(1) for fold in range(5)])
    assert float((remaining >= 20).double().mean()) > 0.995
    assert votes.positions.shape[1] < 40


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="count must be >= 1, got 0; temperature must be > 0, got 0; margin must be"):
        VoteSettings(count=0, temperature=0, margin=1)
