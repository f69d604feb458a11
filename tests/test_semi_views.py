"""Views of unlabeled images: what is done to them, and that nothing depends on who does it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from selmix.data.images import ArrayImages, ImageSplit
from selmix.semi.views import StrongView, pool_images
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.streaming import Resized

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
SPLIT = ImageSplit([str(number) for number in range(9)], None, ArrayImages(PIXELS))


def pool(split=SPLIT, *, workers=0, **settings):
    return pool_images(
        split, size=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3, settings=SupervisedSettings(**settings),
        device=torch.device("cpu"), workers=workers,
    )  # fmt: skip


def loaded(images, seeds=(1, 2, 3, 4, 5, 6, 7, 8, 9)):
    return list(images.loads(zip(torch.arange(9).split(4), torch.tensor(seeds).split(4), strict=True)))


def test_strong_views_are_those_of_their_seed_whoever_makes_them():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = loaded(pool().strong)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    for workers in (0, 2):
        again = loaded(pool(workers=workers).strong)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    # whatever else is in the batch
    lone = list(pool().strong.loads([(torch.tensor([6]), torch.tensor([7]))]))[0]
    assert torch.equal(lone[0], torch.cat(first)[6])
    other = torch.cat(loaded(pool().strong, seeds=range(11, 20)))
    assert all(not torch.equal(mine, theirs) for mine, theirs in zip(torch.cat(first), other, strict=True))


def as_it_is(image, seed):
    return v2.functional.pil_to_tensor(image)


def test_a_grey_square_of_half_the_side_goes_anywhere():
    strong = StrongView(as_it_is)
    strong.operations = [v2.Identity()] * len(strong.operations)
    image = Image.fromarray(np.full((16, 16, 3), 255, dtype=np.uint8))
    corners = set()
    for seed in range(400):
        grey = strong(image, seed) == 127
        assert torch.equal(grey.any(0), grey.all(0))
        rows, columns = grey[0].any(1).nonzero().flatten(), grey[0].any(0).nonzero().flatten()
        assert len(rows) == len(columns) == 8
        assert int(grey[0].sum()) == 64
        assert int(rows[-1] - rows[0]) == int(columns[-1] - columns[0]) == 7
        corners.add((int(rows[0]), int(columns[0])))
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(9))


def test_two_operations_of_any_magnitude_each():
    taken = []

    class Noted(torch.nn.Module):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def forward(self, image):
            taken.append(self.number)
            return image

    strong = StrongView(as_it_is)
    assert [operation.magnitude for operation in strong.operations] == list(range(31))
    assert {operation.num_ops for operation in strong.operations} == {1}
    strong.operations = [Noted(number) for number in range(31)]
    image = Image.fromarray(PIXELS[0])
    for seed in range(300):
        strong(image, seed)
    assert len(taken) == 600
    assert set(taken) == set(range(31))
    assert set(taken[::2]) == set(taken[1::2]) == set(range(31))


def test_a_strong_view_is_cropped_as_a_weak_one_of_its_seed():
    images = pool()
    strong = images.strong.reader.random_crop
    strong.operations = [v2.Identity()] * 31
    strong.cutout = v2.Identity()
    assert all(torch.equal(one, other) for one, other in zip(loaded(images.weak), loaded(images.strong), strict=True))
    plain = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255 * 4 - 2
    unmoved = torch.cat(loaded(pool(augmentation="none").weak))
    torch.testing.assert_close(unmoved, plain)
    assert not torch.allclose(torch.cat(loaded(images.weak)), plain)


def test_views_of_resized_crops():
    images = pool(augmentation="resized_crop", workers=0)
    strong = images.strong.reader.random_crop
    strong.operations = [v2.Identity()] * 31
    strong.cutout = v2.Identity()
    assert all(torch.equal(one, other) for one, other in zip(loaded(images.weak), loaded(images.strong), strict=True))
    assert isinstance(images.strong.reader.pixels, Resized)


@pytest.mark.parametrize("labels", [None, np.arange(9) % 3])
def test_labels_of_the_pool_are_left_behind(labels):
    images = pool(ImageSplit(SPLIT.ids, labels, SPLIT.images))
    assert len(images) == 9
    assert images.weak.labels.tolist() == images.strong.labels.tolist() == [-1] * 9
