"""Where the images of a split are while a network is trained: on its device, or streamed."""

import psutil
import torch

from selmix.data.images import ImageSplit
from selmix.features.loading import default_workers
from selmix.stage1.images import DeviceImages, Request
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.streaming import Pixels, RandomCrop, Reader, Resized, StreamedImages

_SHARE_OF_MEMORY = 0.25  # of what is free: so much may lie on the device
_MEASURED = 10_000  # images that mean and standard deviation are taken from
_BATCH = 256


def training_images(
    split: ImageSplit,
    *,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    settings: SupervisedSettings,
    device: torch.device,
    augment: bool,
    pixels: Pixels | None = None,
    workers: int | None = None,
    processes: int = 1,
) -> DeviceImages | StreamedImages:
    """Return the images of a split: on the device where memory and augmentation allow it, else streamed.

    Args:
        split: with labels.
        size: height and width of the inputs.
        mean: normalisation, per channel of images in [0, 1].
        std: likewise.
        settings: of the loop, which say how images are augmented.
        device: where the network is.
        augment: whether they are; those of validation are not.
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
    random_crop = None
    if augment and settings.augmentation.startswith("resized_crop"):
        random_crop = RandomCrop(size, colour=settings.augmentation == "resized_crop_colour")
    padding = settings.crop_padding if augment and settings.augmentation == "padded_crop" else None
    reader = Reader(split.images, pixels or Resized(size), random_crop, workers)

    needed = 3 * size[0] * size[1] * len(labels) * processes
    if random_crop is None and needed <= _SHARE_OF_MEMORY * free_memory(device):
        stack = torch.cat(list(reader.read(in_order(torch.arange(len(labels))))))
        return DeviceImages(stack.to(device), labels, mean, std, padding)
    return StreamedImages(reader, labels, device, mean, std, padding)


def in_order(positions: torch.Tensor) -> list[Request]:
    """Return the requests of images [n] one after the other, with no seeds worth the name."""
    return [(chunk, torch.zeros_like(chunk)) for chunk in positions.split(_BATCH)]


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def channel_statistics(
    split: ImageSplit, *, size: tuple[int, int], most: int = _MEASURED
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of images scaled to [0, 1], in any memory.

    Args:
        split: the images.
        size: height and width that they are brought to.
        most: so many of them are measured, evenly spaced, where there are more.
    """
    some = torch.linspace(0, len(split.ids) - 1, min(len(split.ids), most), dtype=torch.float64).round().long()
    count, total, squares = 0, torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    reader = Reader(split.images, Resized(size), workers=default_workers(len(some), processes=1))
    for pixels in reader.read(in_order(some)):
        values = pixels.transpose(0, 1).flatten(1).long()  # integers: their sums are exact
        count, total, squares = count + values.shape[1], total + values.sum(1), squares + values.square().sum(1)
    mean = total.double() / count
    variance = (squares.double() - count * mean**2).clamp_min(0) / (count - 1)
    return tuple(round(value / 255, 6) for value in mean.tolist()), tuple(
        round(value / 255, 6) for value in variance.sqrt().tolist()
    )
