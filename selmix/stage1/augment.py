"""Weak augmentation of whole batches on the device where the images live."""

import torch
from torch.nn import functional as F


def random_crop_flip(images: torch.Tensor, seeds: torch.Tensor, *, padding: int) -> torch.Tensor:
    """Crop every image at a random offset after zero-padding, and mirror half of them.

    Args:
        images: uint8 [b, c, h, w].
        seeds: int64 [b] >= 0, one an image, uniform over a range that is much larger than the number of outcomes.
        padding: pixels added on each side before the crop of the original size; 0 switches cropping off.

    Returns:
        uint8 [b, c, h, w].
    """
    count, _, height, width = images.shape
    device = images.device
    places = 2 * padding + 1
    top = seeds % places
    left = seeds // places % places
    flip = seeds // places**2 % 2 == 1
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = left[:, None] + torch.where(flip[:, None], columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    sample = torch.arange(count, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
