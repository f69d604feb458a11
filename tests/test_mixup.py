import pytest
import torch

from selmix.mixup import mix_features, mix_inputs


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_mixed_images_are_the_convex_combination(mix):
    images, partner = torch.randn(2, 9, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(mix_inputs(images, partner, mix), mix * images + (1 - mix) * partner)


def test_coefficient_can_be_read_off_the_pixels():
    # image n is constant n, so a mixed pixel is mix n + (1 - mix) partner
    images = torch.arange(6, dtype=torch.float64)[:, None, None, None].expand(6, 1, 2, 2)
    partners = torch.tensor([1, 2, 3, 4, 5, 0])
    mixed = mix_inputs(images, images[partners], 0.8)
    read = (mixed[:, 0, 0, 0] - partners) / (torch.arange(6) - partners)
    torch.testing.assert_close(read, torch.full_like(read, 0.8))


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
