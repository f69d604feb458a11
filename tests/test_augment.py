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


def drawn_seeds(count: int, seed: int) -> torch.Tensor:
    return torch.randint(1 << 62, (count,), generator=torch.Generator().manual_seed(seed))


def outcome_of(image: torch.Tensor, result: torch.Tensor, padding: int) -> tuple[int, int, bool]:
    matches = [key for key, value in crops_and_flips(image, padding).items() if torch.equal(value, result)]
    assert len(matches) == 1, f"the result is {len(matches)} of the possible crops and flips"
    return matches[0]


@pytest.mark.parametrize(("padding", "height", "width"), [(0, 4, 5), (1, 4, 5), (2, 6, 3), (3, 4, 4)])
def test_every_result_is_a_crop_or_mirrored_crop_of_its_own_padded_image(padding, height, width):
    images = random_images(20, height=height, width=width)
    original = images.clone()
    results = random_crop_flip(images, drawn_seeds(20, 1), padding=padding)
    assert results.shape == images.shape
    assert results.dtype == torch.uint8
    assert torch.equal(images, original)
    outcomes = {outcome_of(image, result, padding) for image, result in zip(images, results, strict=True)}
    # not one draw for the whole batch: 20 images meet both mirrorings, and several offsets where there are any
    assert {flip for _, _, flip in outcomes} == {False, True}
    assert len({(top, left) for top, left, _ in outcomes}) > 4 * (padding > 0)


def test_without_padding_an_image_comes_back_or_its_mirror():
    images = random_images(30)
    results = random_crop_flip(images, drawn_seeds(30, 2), padding=0)
    mirrors = torch.stack([images[..., x] for x in (4, 3, 2, 1, 0)], -1)
    kept = [torch.equal(result, image) for result, image in zip(results, images, strict=True)]
    mirrored = [torch.equal(result, mirror) for result, mirror in zip(results, mirrors, strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert 0 < sum(mirrored) < 30


def test_offsets_and_mirroring_are_uniform():
    image = random_images(1, height=3, width=3)
    results = random_crop_flip(image.expand(1800, 3, 3, 3), drawn_seeds(1800, 3), padding=1)
    drawn = [outcome_of(image[0], result, 1) for result in results.unbind()]
    counts = [drawn.count(key) for key in crops_and_flips(image[0], 1)]
    assert sum(counts) == 1800
    assert chisquare(counts).pvalue > 1e-3  # 18 outcomes


def test_the_result_of_an_image_depends_on_its_seed_alone():
    images, seeds, before = random_images(16), drawn_seeds(16, 4), torch.get_rng_state()
    together = random_crop_flip(images, seeds, padding=2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    assert torch.equal(random_crop_flip(images[order], seeds[order], padding=2), together[order])
    assert torch.equal(random_crop_flip(images[3:4], seeds[3:4], padding=2), together[3:4])
    assert not torch.equal(random_crop_flip(images, drawn_seeds(16, 5), padding=2), together)
    assert torch.equal(before, torch.get_rng_state())


def test_the_seed_says_where_the_crop_is_by_hand():
    # 3 places a side with a padding of 1: 17 = 2 + 3 (2 + 3 (1)) is row 2, column 2, mirrored
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)[None, None]
    result = random_crop_flip(image, torch.tensor([2 + 3 * 2 + 9]), padding=1)
    assert result[0, 0].tolist() == [[0, 4], [0, 0]]
    middle = random_crop_flip(image, torch.tensor([1 + 3 * 1 + 0]), padding=1)
    assert middle[0, 0].tolist() == [[1, 2], [3, 4]]
