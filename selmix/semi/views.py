"""Weak and strong views of unlabeled images."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from selmix.data.images import ImageSplit
from selmix.features.loading import default_workers
from selmix.stage1.images import TrainingImages
from selmix.stage1.placing import training_images
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.streaming import Pixels, RandomCrop, Reader, Resized, SeededPixels, StreamedImages

_OPERATIONS = 2
_MAGNITUDES = 31
_GREY = 127


class StrongView:
    """Two random operations of RandAugment, each of a random magnitude, and a grey square; the same for the same seed.

    Source: Sohn et al., "FixMatch", NeurIPS 2020 (RandAugment without a search for its magnitude; cutout), with the
    operations and ranges of torchvision.
    """

    def __init__(self, image: SeededPixels) -> None:
        """Take what becomes of an image before: (RGB, seed) -> uint8 [3, h, w]."""
        self.image = image
        self.operations = [
            v2.RandAugment(1, magnitude, num_magnitude_bins=_MAGNITUDES, fill=_GREY) for magnitude in range(_MAGNITUDES)
        ]
        self.cutout = v2.RandomErasing(p=1, scale=(0.25, 0.25), ratio=(1, 1), value=_GREY)

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """Return uint8 [3, h, w]."""
        # Pillow is the faster way with a single small image
        view = v2.functional.to_pil_image(self.image(image, seed))
        # torchvision draws from the global stream, which may be that of the process that trains: it is given back
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # that of the CPU alone
            for number in torch.randint(_MAGNITUDES, (_OPERATIONS,)).tolist():
                view = self.operations[number](view)
            return self.cutout(v2.functional.pil_to_tensor(view))


@dataclass(frozen=True)
class _Unmoved:
    """An image as it is, whatever the seed."""

    pixels: Pixels

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        return self.pixels(image)


@dataclass(frozen=True)
class PoolImages:
    """Unlabeled images as a network learns from them.

    Attributes:
        weak: augmented as labeled images are.
        strong: the same images, with operations and a grey square before that.
    """

    weak: TrainingImages
    strong: TrainingImages

    def __len__(self) -> int:
        return len(self.weak.labels)


def without_labels(split: ImageSplit) -> ImageSplit:
    """Return images with -1 for each label, whether they have labels or not."""
    return replace(split, labels=np.full(len(split.ids), -1))


def pool_images(
    split: ImageSplit,
    *,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    settings: SupervisedSettings,
    device: torch.device,
    pixels: Pixels | None = None,
    workers: int | None = None,
    processes: int = 1,
) -> PoolImages:
    """Return the images of a pool; labels that they have are left behind here.

    Args:
        split: of unlabeled images.
        size: height and width of the inputs.
        mean: normalisation, per channel of images in [0, 1].
        std: likewise.
        settings: of the loop, which say how images are augmented.
        device: where the network is.
        pixels: what an image becomes that is not cropped at random: RGB -> uint8 [3, *size]; None: it is resized.
        workers: processes that make strong views ahead of time; None: as many as there are cores to spare.
        processes: that train on this machine, together.

    Raises:
        DataError: if an image cannot be read.
    """
    blind = without_labels(split)
    if workers is None:
        workers = default_workers(len(split.ids), processes=processes)
    pixels = pixels or Resized(size)
    weak = training_images(
        blind,
        size=size,
        mean=mean,
        std=std,
        settings=settings,
        device=device,
        augment=True,
        pixels=pixels,
        workers=workers,
        processes=processes,
    )
    before: SeededPixels = _Unmoved(pixels)
    if settings.augmentation.startswith("resized_crop"):
        before = RandomCrop(size, colour=settings.augmentation == "resized_crop_colour")
    reader = Reader(blind.images, pixels, StrongView(before), workers)
    return PoolImages(weak, StreamedImages(reader, weak.labels, device, mean, std, weak.crop_padding))
