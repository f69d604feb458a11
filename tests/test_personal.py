"""Noise of a strength for each class: its size, and that it can be drawn again."""

import pytest
import torch

from selmix.seeding import torch_generator
from selmix.stage1.images import DeviceImages
from selmix.stage1.personal import NoisyImages, perturb, spherical_noise


def test_noise_has_unit_mean_square_and_no_direction():
    noise = spherical_noise(torch.zeros(2000, 1, 2, 2, dtype=torch.float64), torch_generator(0, "noise"))
    torch.testing.assert_close(noise.square().mean((1, 2, 3)), torch.ones(2000, dtype=torch.float64))
    # uniform on the sphere: each of the d coordinates has mean 0 and variance 1, uncorrelated
    flat = noise.flatten(1)
    assert flat.mean(0).abs().max() < 4 / 2000**0.5
    assert (flat.T @ flat / 2000 - torch.eye(4)).abs().max() < 4 * 2 / 2000**0.5


def test_the_input_is_differentiable_in_the_strength():
    inputs, strength = torch.zeros(2, 3), torch.tensor([0.5, 2.0], requires_grad=True)
    noise = torch.tensor([[1.0, -2, 3], [4, 5, 6]])
    noisy = perturb(inputs, noise, strength)
    assert noisy.tolist() == [[0.5, -1, 1.5], [8, 10, 12]]
    noisy.sum().backward()
    assert strength.grad.tolist() == [2, 15]


def test_images_with_noise_of_their_cell():
    labels = torch.tensor([0, 3, 1, 2, 0, 1])
    pixels = torch.randint(256, (6, 3, 4, 4), generator=torch_generator(0, "pixels"), dtype=torch.uint8)
    plain = DeviceImages(pixels, labels, (0.5,) * 3, (0.25,) * 3)
    noisy = NoisyImages(plain, torch.tensor([[0.0, 0.1], [0.2, 0.4]]))
    requests = [(torch.tensor([0, 1, 2]), torch.tensor([7, 8, 9])), (torch.tensor([3, 4]), torch.tensor([1, 2]))]
    assert noisy.labels is labels
    for (positions, _), clean, found in zip(requests, plain.loads(requests), noisy.loads(iter(requests)), strict=True):
        size = (found - clean).square().mean((1, 2, 3)).sqrt()
        expected = torch.tensor([0.0, 0.1, 0.2, 0.4])[labels[positions]]
        assert size.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    again = [next(noisy.loads([requests[0]])) for _ in range(2)]
    assert torch.equal(*again)
    other = next(noisy.loads([(requests[0][0], torch.tensor([7, 8, 10]))]))
    assert not torch.equal(again[0], other)
