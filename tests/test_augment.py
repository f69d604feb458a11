import pytest
import torch
from scipy.stats import chisquare

from selmix.stage1.augment import random_crop_flip


def random_images(count: int, *, height: int = 4, width: int = 5, seed: int = 0) -> torch.Tensor:
    """Return images without a zero pixel, so that the padding shows and no two crops agree."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def crops_and_flips(image: torch.Tensor, padding: int) -> dict[tuple[int, int, bool], torch.Tensor]:
    """Enumerate every outcome for one image by copying pixels into a black canvas."""
    channels, height, width = image.shape
    canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    canvas[:, padding : padding + height, padding : padding + width] = image
    outcomes = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = canvas[:, top : top + height, left : left + width]
            outcomes[top, left, False] = crop
            outcomes[top, left, True] = torch.stack([crop[..., width - 1 - x] for x in range(width)], -1)
    return outcomes


def outcome_of(image: torch.Tensor, result: torch.Tensor, padding: int) -> tuple[int, int, bool]:
    matches = [key for key, value in crops_and_flips(image, padding).items() if torch.equal(value, result)]
    assert len(matches) == 1, f"the result is {len(matches)} of the possible crops and flips"
    return matches[0]


@pytest.mark.parametrize(("padding", "height", "width"), [(0, 4, 5), (1, 4, 5), (2, 6, 3), (3, 4, 4)])
def test_every_result_is_a_crop_or_mirrored_crop_of_its_own_padded_image(padding, height, width):
    images = random_images(20, height=height, width=width)
    original = images.clone()
    results = random_crop_flip(images, padding=padding, generator=torch.Generator().manual_seed(1))
    assert results.shape == images.shape
    assert results.dtype == torch.uint8
    assert torch.equal(images, original)
    outcomes = {outcome_of(image, result, padding) for image, result in zip(images, results, strict=True)}
    # not one draw for the whole batch: 20 images meet both mirrorings, and several offsets where there are any
    assert {flip for _, _, flip in outcomes} == {False, True}
    assert len({(top, left) for top, left, _ in outcomes}) > 4 * (padding > 0)


def test_without_padding_an_image_comes_back_or_its_mirror():
    images = random_images(30)
    results = random_crop_flip(images, padding=0, generator=torch.Generator().manual_seed(2))
    mirrors = torch.stack([images[..., x] for x in (4, 3, 2, 1, 0)], -1)
    kept = [torch.equal(result, image) for result, image in zip(results, images, strict=True)]
    mirrored = [torch.equal(result, mirror) for result, mirror in zip(results, mirrors, strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert 0 < sum(mirrored) < 30


def test_offsets_and_mirroring_are_uniform():
    image = random_images(1, height=3, width=3)
    results = random_crop_flip(image.expand(1800, 3, 3, 3), padding=1, generator=torch.Generator().manual_seed(3))
    drawn = [outcome_of(image[0], result, 1) for result in results.unbind()]
    counts = [drawn.count(key) for key in crops_and_flips(image[0], 1)]
    assert sum(counts) == 1800
    assert chisquare(counts).pvalue > 1e-3  # 18 outcomes


def test_results_repeat_with_the_generator_and_leave_the_global_one_alone():
    images, before = random_images(16), torch.get_rng_state()
    first, again, other = (
        random_crop_flip(images, padding=2, generator=torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
