"""Weak views: crops of the reflected image and mirrors, the same whoever makes them."""

import numpy as np
import pytest
import torch

from selmix.features.views import view_of, weak_view


def image(side: int = 16) -> torch.Tensor:
    return torch.arange(3 * side * side).reshape(3, side, side)


def candidates(pixels: torch.Tensor) -> list[np.ndarray]:
    """Return every crop of the image padded by NumPy, plain and mirrored."""
    side, padding = pixels.shape[1], pixels.shape[1] // 8
    padded = np.pad(pixels.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    crops = [
        padded[:, top : top + side, left : left + side]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return crops + [crop[:, :, ::-1] for crop in crops]


def test_a_view_is_one_of_all_crops_and_mirrors_each_as_likely():
    pixels, generator, drawn = image(), torch.Generator().manual_seed(0), 5000
    keys = {crop.tobytes(): index for index, crop in enumerate(candidates(pixels))}
    assert len(keys) == 2 * 5 * 5
    found = [keys[weak_view(pixels, generator=generator).numpy().tobytes()] for _ in range(drawn)]
    counts = np.bincount(found, minlength=50)
    chi_square = ((counts - drawn / 50) ** 2 / (drawn / 50)).sum()
    assert chi_square < 85.4  # the 99.9 % quantile for 49 degrees of freedom


def test_a_view_depends_on_image_view_and_seed_alone():
    pixels = image(64)
    views = {
        (name, view, seed): view_of(pixels, name, view, seed=seed).numpy().tobytes()
        for name in ("a", "b")
        for view in (1, 2)
        for seed in (0, 1)
    }
    assert len(set(views.values())) == 8
    for (name, view, seed), drawn in reversed(views.items()):
        assert view_of(pixels, name, view, seed=seed).numpy().tobytes() == drawn


def test_view_zero_is_the_image_and_a_tiny_image_has_no_room_to_move():
    assert view_of(image(), "a", 0, seed=0) is not None
    assert torch.equal(view_of(image(), "a", 0, seed=0), image())
    tiny = image(7)
    seen = {weak_view(tiny, generator=torch.Generator().manual_seed(seed)).numpy().tobytes() for seed in range(20)}
    assert seen == {tiny.numpy().tobytes(), tiny.flip(2).numpy().tobytes()}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_keep_their_kind(dtype):
    pixels = image().to(dtype)
    assert weak_view(pixels, generator=torch.Generator().manual_seed(1)).dtype == dtype
