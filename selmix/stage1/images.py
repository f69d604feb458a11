"""Training images, where they are and how they become the inputs of a network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from selmix.stage1.augment import random_crop_flip


class TrainingImages(Protocol):
    """The images that a network learns from.

    Attributes:
        labels: int64 [n], on the CPU.
    """

    labels: torch.Tensor

    def loads(self, requests: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[torch.Tensor]:
        """Yield the inputs [b, c, h, w] of each request: int64 [b] positions, and int64 [b] seeds of augmentation."""
        ...


@dataclass(frozen=True)
class DeviceImages:
    """Images that live on the device, augmented there a batch at a time.

    Attributes:
        pixels: uint8 [n, c, h, w].
        labels: int64 [n], on the CPU.
        mean: normalisation, per channel of images in [0, 1].
        std: likewise.
        crop_padding: pixels of padding before a random crop and mirroring; None for images as they are.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int | None = None

    def loads(self, requests: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[torch.Tensor]:
        """Yield the inputs [b, c, h, w] of each request: int64 [b] positions, and int64 [b] seeds of augmentation."""
        device = self.pixels.device
        shift, scale = (torch.tensor(values, device=device).view(1, -1, 1, 1) * 255 for values in (self.mean, self.std))
        for positions, seeds in requests:
            batch = self.pixels[positions.to(device)]
            if self.crop_padding is not None:
                batch = random_crop_flip(batch, seeds.to(device), padding=self.crop_padding)
            yield (batch.float() - shift) / scale
