"""Where the images of a split are while a network is trained: on its device, or streamed."""

from collections.abc import Iterable

import psutil
import torch

from selmix.data.images import ImageSplit
from selmix.features.loading import default_workers
from selmix.stage1.images import DeviceImages, Request
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.streaming import Pixels, RandomCrop, Reader, Resized, StreamedImages

_SHARE_OF_MEMORY = 0.25  # of what is free: so much may lie on the device
_STATISTICS_FROM = 10_000  # streamed images that mean and standard deviation are taken from
_BATCH = 256


def training_images(
    split: ImageSplit,
    *,
    size: tuple[int, int],
    settings: SupervisedSettings,
    device: torch.device,
    augmented: bool,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    pixels: Pixels | None = None,
    workers: int | None = None,
    processes: int = 1,
) -> DeviceImages | StreamedImages:
    """Return the images of a split: on the device where memory and augmentation allow it, else streamed.

    Args:
        split: with labels.
        size: height and width of the inputs.
        settings: of the loop, which say how images are augmented.
        device: where the network is.
        augmented: whether they are; those of validation are not.
        mean: normalisation, per channel of images in [0, 1]; None: as it is in these images.
        std: likewise.
        pixels: what an image becomes that is not cropped at random: RGB -> uint8 [3, *size]; None: it is resized.
        workers: processes that decode; None: as many as there are cores to spare.
        processes: that train on this machine, together.

    Raises:
        DataError: if an image cannot be read.
    """
    assert split.labels is not None
    labels = torch.from_numpy(split.labels)
    if workers is None:
        workers = default_workers(len(labels), processes=processes)
    whole = Reader(split.images, pixels or Resized(size), workers=workers)
    random_crop = None
    if augmented and settings.augmentation.startswith("resized_crop"):
        random_crop = RandomCrop(size, colour=settings.augmentation == "resized_crop_colour")
    padding = settings.crop_padding if augmented and settings.augmentation == "padded_crop" else None

    if random_crop is None and 3 * size[0] * size[1] * len(labels) * processes <= _SHARE_OF_MEMORY * free_memory(
        device
    ):
        stack = torch.cat(list(whole.read(in_order(torch.arange(len(labels))))))
        if mean is None or std is None:
            mean, std = channel_statistics(stack.split(_BATCH))
        return DeviceImages(stack.to(device), labels, mean, std, padding)
    if mean is None or std is None:
        some = torch.linspace(0, len(labels) - 1, min(len(labels), _STATISTICS_FROM)).long()
        mean, std = channel_statistics(whole.read(in_order(some)))
    reader = Reader(split.images, whole.pixels, random_crop, workers)
    return StreamedImages(reader, labels, device, mean, std, padding)


def in_order(positions: torch.Tensor) -> list[Request]:
    """Return the requests of images [n] one after the other, with no seeds worth the name."""
    return [(chunk, torch.zeros_like(chunk)) for chunk in positions.split(_BATCH)]


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def channel_statistics(batches: Iterable[torch.Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 images [b, c, h, w] scaled to [0, 1]."""
    count, total, squares = 0, torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
    for batch in batches:
        values = batch.transpose(0, 1).flatten(1).long()  # integers: sums are exact
        count, total, squares = count + values.shape[1], total + values.sum(1), squares + values.square().sum(1)
    mean = total.double() / count
    std = ((squares.double() - count * mean**2) / (count - 1)).sqrt()
    rounded = [tuple(round(value / 255, 6) for value in row.tolist()) for row in (mean, std)]
    return rounded[0], rounded[1]
