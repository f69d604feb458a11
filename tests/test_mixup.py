import pytest
import torch
from scipy import stats

from selmix.mixup import mix_features, mix_inputs


def batch(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images and, as labels, their own positions, so that partner labels name the partners."""
    images = torch.randn(count, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return images, torch.arange(count)


def coefficients(alpha: float, draws: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
    drawn = [mix_inputs(images, labels, alpha=alpha, generator=generator)[2] for _ in range(draws)]
    return torch.tensor(drawn, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixed_images_are_the_convex_combination_that_the_labels_name(alpha):
    images, labels = batch()
    mixed, partner, mix = mix_inputs(images, labels, alpha=alpha, generator=torch.Generator().manual_seed(5))
    assert sorted(partner.tolist()) == list(range(9))
    assert partner.tolist() != list(range(9))
    assert 0 < mix < 1
    torch.testing.assert_close(mixed, mix * images + (1 - mix) * images[partner])


def test_coefficient_can_be_read_off_the_pixels():
    # image n is constant n, so a mixed pixel is mix n + (1 - mix) partner
    images = torch.arange(6, dtype=torch.float64)[:, None, None, None].expand(6, 1, 2, 2)
    mixed, partner, mix = mix_inputs(images, torch.arange(6), alpha=1.0, generator=torch.Generator().manual_seed(0))
    moved = partner != torch.arange(6)
    assert moved.any()
    read = (mixed[moved, 0, 0, 0] - partner[moved]) / (torch.arange(6)[moved] - partner[moved])
    torch.testing.assert_close(read, torch.full_like(read, mix))


def test_input_mixing_repeats_with_the_generator_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    results = [mix_inputs(*batch(), alpha=1.0, generator=torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2] != results[2][2]
    assert not torch.equal(results[0][1], results[2][1])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_coefficient_follows_the_symmetric_beta_law(alpha):
    drawn = coefficients(alpha, 4000)
    variance = 1 / (4 * (2 * alpha + 1))
    # four standard errors; the variance of the sample variance is below variance / (4 draws), as |x - 1/2| <= 1/2
    assert float(drawn.mean()) == pytest.approx(0.5, abs=4 * (variance / 4000) ** 0.5)
    assert float(drawn.var()) == pytest.approx(variance, abs=4 * (variance / 4 / 4000) ** 0.5)
    assert stats.kstest(drawn.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    # negative control: the test notices another concentration
    assert stats.kstest(drawn.numpy(), stats.beta(1.5 * alpha, 1.5 * alpha).cdf).pvalue < 1e-3


def test_partners_are_a_uniform_permutation():
    generator = torch.Generator().manual_seed(6)
    images, labels = torch.zeros(3, 1, 1, 1), torch.arange(3)
    orders = [tuple(mix_inputs(images, labels, alpha=1.0, generator=generator)[1].tolist()) for _ in range(3000)]
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_feature_mixing_by_hand():
    kept, partner = torch.tensor([[4.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 8.0], [3.0, -1.0]])
    mixed = mix_features(kept, partner, torch.tensor([0.75, 0.5]))
    # .75 (4, 0) + .25 (0, 8) and the midpoint of (1, 1) and (3, -1)
    assert torch.equal(mixed, torch.tensor([[3.0, 2.0], [2.0, 0.0]]))


def test_feature_mixing_ends_at_its_arguments():
    kept, partner = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(mix_features(kept, partner, torch.ones(5)), kept)
    assert torch.equal(mix_features(kept, partner, torch.zeros(5)), partner)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_feature_mixing_takes_any_leading_shape(shape):
    generator = torch.Generator().manual_seed(7)
    kept, partner = torch.randn(2, *shape, 6, generator=generator, dtype=torch.float64)
    mix = torch.rand(shape, generator=generator, dtype=torch.float64)
    expected = torch.einsum("...,...d->...d", mix, kept) + torch.einsum("...,...d->...d", 1 - mix, partner)
    torch.testing.assert_close(mix_features(kept, partner, mix), expected)
