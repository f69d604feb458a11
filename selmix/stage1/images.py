"""Training images that live on the device, and how pixels become the inputs of a network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from selmix.stage1.augment import random_crop_flip

Request = tuple[torch.Tensor, torch.Tensor]


class TrainingImages(Protocol):
    """The images that a network learns from."""

    @property
    def labels(self) -> torch.Tensor:
        """Return int64 [n], on the CPU."""
        ...

    def loads(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """Yield the inputs [b, c, h, w] of each request: int64 [b] positions, and int64 [b] seeds of augmentation."""
        ...


@dataclass(frozen=True)
class Finish:
    """What the device does to uint8 pixels.

    Attributes:
        mean: normalisation, per channel of images in [0, 1].
        std: likewise.
        crop_padding: pixels of padding before a random crop and mirroring; None for images as they are.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int | None = None

    def __call__(self, pixels: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """Return the inputs [b, c, h, w] of a network, given uint8 [b, c, h, w] and int64 [b]."""
        if self.crop_padding is not None:
            seeds = seeds.to(pixels.device, non_blocking=True)
            pixels = random_crop_flip(pixels, seeds, padding=self.crop_padding)
        shift, scale = (
            torch.tensor(values).mul(255).view(1, -1, 1, 1).to(pixels.device, non_blocking=True)
            for values in (self.mean, self.std)
        )
        return (pixels.float() - shift) / scale


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

    def loads(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """Yield the inputs [b, c, h, w] of each request: int64 [b] positions, and int64 [b] seeds of augmentation."""
        finish = Finish(self.mean, self.std, self.crop_padding)
        for positions, seeds in requests:
            # what comes from the CPU does not wait for the device, so that steps can be prepared ahead of it
            yield finish(self.pixels[positions.to(self.pixels.device, non_blocking=True)], seeds)
