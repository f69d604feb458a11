"""What an epoch will do, drawn before it starts: order, augmentation, partners and coefficients."""

import pytest
import torch
from scipy import stats

from selmix.stage1.plan import plan_epoch
from selmix.stage1.settings import SupervisedSettings


def planned(count: int, *, epoch: int = 0, seed: int = 0, **settings):
    return plan_epoch(torch.arange(count) % 3, SupervisedSettings(**settings), epoch=epoch, seed=seed)


@pytest.mark.parametrize(
    ("count", "batch_size", "shape"), [(10, 4, (2, 4)), (8, 4, (2, 4)), (3, 4, (1, 3)), (4, 1, (4, 1))]
)
def test_the_incomplete_batch_is_dropped_unless_it_is_the_only_one(count, batch_size, shape):
    plan = planned(count, batch_size=batch_size, mixup_alpha=1.0)
    assert plan.positions.shape == plan.seeds.shape == plan.partners.shape == shape
    assert plan.mix.shape == shape[:1]
    drawn = plan.positions.flatten().tolist()
    assert len(set(drawn)) == len(drawn)  # no image twice
    assert set(drawn) <= set(range(count))


def test_the_order_is_uniform_and_another_in_each_epoch():
    orders = [tuple(planned(3, epoch=epoch, batch_size=3).positions[0].tolist()) for epoch in range(1200)]
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_plan_is_a_function_of_seed_and_epoch_alone():
    before = torch.get_rng_state()
    first, again = (planned(50, epoch=3, seed=1, batch_size=10, mixup_alpha=1.0) for _ in range(2))
    others = [planned(50, epoch=e, seed=s, batch_size=10, mixup_alpha=1.0) for e, s in ((4, 1), (3, 2))]
    assert torch.equal(before, torch.get_rng_state())
    for name in ("positions", "seeds", "partners", "mix"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert all(not torch.equal(getattr(first, name), getattr(other, name)) for other in others)


def test_no_two_images_share_a_seed():
    # 5000 draws of 62 bits: two alike with a probability of 3e-12
    seeds = planned(5000, batch_size=100).seeds
    assert len(seeds.unique()) == 5000
    assert stats.kstest(seeds.flatten().double().numpy() / 2**62, "uniform").pvalue > 1e-3


def test_without_mixup_every_row_is_its_own_partner():
    plan = planned(12, batch_size=4, mixup_alpha=0.0)
    assert plan.partners.tolist() == [[0, 1, 2, 3]] * 3
    assert plan.mix.tolist() == [1.0] * 3


def test_mixing_changes_neither_order_nor_augmentation():
    # so what mixup brings is compared on the same stream
    plain, mixed = (planned(40, batch_size=8, mixup_alpha=alpha) for alpha in (0.0, 1.0))
    assert torch.equal(plain.positions, mixed.positions)
    assert torch.equal(plain.seeds, mixed.seeds)


def test_partners_are_a_uniform_permutation():
    orders = [tuple(row) for row in planned(9000, batch_size=3, mixup_alpha=1.0).partners.tolist()]
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_coefficient_follows_the_symmetric_beta_law(alpha):
    drawn = planned(4000, batch_size=1, mixup_alpha=alpha).mix
    variance = 1 / (4 * (2 * alpha + 1))
    # four standard errors; the variance of the sample variance is below variance / (4 draws), as |x - 1/2| <= 1/2
    assert float(drawn.mean()) == pytest.approx(0.5, abs=4 * (variance / 4000) ** 0.5)
    assert float(drawn.var()) == pytest.approx(variance, abs=4 * (variance / 4 / 4000) ** 0.5)
    assert stats.kstest(drawn.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    # negative control: the test notices another concentration
    assert stats.kstest(drawn.numpy(), stats.beta(1.5 * alpha, 1.5 * alpha).cdf).pvalue < 1e-3
