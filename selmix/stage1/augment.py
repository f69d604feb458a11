"""Weak augmentation of whole batches on the device where the images live."""

import torch
from torch.nn import functional as F


def random_crop_flip(images: torch.Tensor, *, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Crop every image at a random offset after zero-padding, and mirror half of them.

    Args:
        images: uint8 [b, c, h, w].
        padding: pixels added on each side before the crop of the original size; 0 switches cropping off.
        generator: source of the offsets and the mirroring (on the CPU).

    Returns:
        uint8 [b, c, h, w].
    """
    count, _, height, width = images.shape
    device = images.device
    offsets = torch.randint(2 * padding + 1, (2, count, 1), generator=generator).to(device)
    flip = (torch.rand(count, 1, generator=generator) < 0.5).to(device)
    rows = offsets[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = offsets[1] + torch.where(flip, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    sample = torch.arange(count, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
